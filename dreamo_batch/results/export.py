"""Export: results, pictures and references in a folder for other tools, with a dictionary of the columns."""

from __future__ import annotations

import json
import re
import tempfile
from contextlib import nullcontext
from decimal import Decimal
from functools import partial
from importlib.metadata import version
from itertools import chain, count
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple
from urllib.parse import urlsplit

import numpy as np
import pandas as pd

from dreamo_batch import columns
from dreamo_batch.appearance import PALETTE
from dreamo_batch.arguments import check_choice, file_path, names_in
from dreamo_batch.engine import directory, pictures
from dreamo_batch.engine.checkpoint import IMAGE, references_of
from dreamo_batch.engine.directory import RunDirectory
from dreamo_batch.errors import UsageError, warn
from dreamo_batch.images import PNG, png_chunk, suffix_of, with_comment
from dreamo_batch.importing import load_extra
from dreamo_batch.jobs.fields import rating_columns
from dreamo_batch.jobs.references import sha256
from dreamo_batch.jobs.tables import content_of, restore_input_dtype, with_index_as_columns
from dreamo_batch.money import dollars, total
from dreamo_batch.parallel import Cluster, each, working, write_file
from dreamo_batch.results.frame import folders_of, run_dir_of
from dreamo_batch.results.history import Source, read_results
from dreamo_batch.results.load import decided_for
from dreamo_batch.results.rating_log import with_ratings
from dreamo_batch.service import contract
from dreamo_batch.text import counted, fill_template, first_line, joined, listed, one_line, option, wording

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from dreamo_batch.engine.directory import Manifest

_FORMATS: Final = ("parquet", "csv", "tsv", "jsonl", "xlsx")
MANIFEST: Final = "export.json"
_FILES: Final = "sha256"
_PENDING: Final = "pending"
_NAMED_MAX: Final = 3
_WRITERS: Final = 8  # which wait for the disk at the same time
_IMAGES: Final = "images"
# Pictures are named by their job, whatever a table says; both parts are safe on every file system.
_SHARD: Final = re.compile(rf"(?:{directory.SHARDS}/[0-9a-f]{{2}}/)?")
_NAME: Final = re.compile(r"[0-9a-zA-Z_-]{1,64}\.(?:jpg|png|webp)")

# What the run directory records about each job.
_SUBMITTED: Final = (columns.WIDTH, columns.HEIGHT, columns.USE_REPHRASER)
_DECIDED: Final = (*_SUBMITTED, columns.REPLICATE, columns.MODEL, *IMAGE, columns.IMAGES_FURTHER)
_SOURCES: Final = {
    columns.SEED: columns.SEED_SENT,
    columns.WIDTH: columns.OUTPUT_WIDTH,
    columns.HEIGHT: columns.OUTPUT_HEIGHT,
}
_FURTHER: Final = (columns.WIDTH, columns.HEIGHT, columns.COST, columns.OUTPUT_SHA256)
# Columns left out of a picture's line: the location of the reference, and other names of the size.
_LEFT_OUT: Final = (columns.IMAGE, *columns.IMAGE_ALIASES, *columns.IMAGE_NUMBERED, columns.SIZE)
# Suffixes of column names that the Hugging Face loader interprets as files.
_LOADED: Final = ("file_name", "file_names")

_INSCRIBED: Final = (columns.PROMPT, columns.SEED, columns.JOB_ID)

_YOURS: Final = columns.Column("", "", "", "A column of the table that was run, unchanged.")
_MEANINGS: Final = {
    columns.RUN_DIR: columns.Column(
        columns.RUN_DIR, columns.STR, "", "Run directory that the row comes from."
    ),
    columns.OUTPUT_PATH: columns.Column(
        columns.OUTPUT_PATH, columns.STR, "", "Path of the picture in this folder, if pictures were exported."
    ),
}
_SPECIAL: Final = "\\`*_{}[]<>()#+-!|~&$"


class Item(NamedTuple):
    """A file to export: name, content, the file it may be hard linked to, text to embed, and digest in the run."""

    name: str
    content: Callable[[], bytes]
    original: Path | None = None
    words: Mapping[str, object] | None = None
    sha256: str | None = None


def export(
    source: Source,
    folder: str | os.PathLike[str] | None = None,
    *,
    to: str | None = None,
    licence: str | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    formats: str | Iterable[str] = ("parquet", "csv"),
    pictures: Literal["copy", "link", "none"] = "copy",
    text: bool = False,
    excel_safe: bool = False,
    cluster: Cluster = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Write results and pictures into a folder that other tools read.

    The folder gets ``results.parquet`` and ``results.csv`` (one flat table), ``columns.csv`` and ``README.md`` (what
    each column means), ``references/`` with the reference pictures, and ``images/`` with all pictures, named by their
    job, and a ``metadata.csv`` that the Hugging Face loader reads:
    ``load_dataset("imagefolder", data_dir="FOLDER/images")``.

    Parameters
    ----------
    source : path, iterable of paths, or pandas.DataFrame
        One or more run directories, or results of `run` or `load`, or rows of them. Of several directories, the tables
        are exported as one, with a column `run_dir`; pictures with the same name get their own names, and
        `output_path` says which is which.
    folder : path, optional
        Created if missing. The same call again changes nothing; a call with other rows replaces the earlier export.
        Files that don't come from an export, or were changed since, are never replaced. May be left out with `to`.
    to : str, optional
        Upload the folder as a dataset, too: ``"hf://datasets/OWNER/NAME"`` (extra ``hub``; log in with ``hf auth
        login`` or `HF_TOKEN`). A new dataset is private; files of the same names are replaced, others are kept.
    licence : str, optional
        Licence that the dataset card names, by the hub's identifier, such as ``"cc-by-4.0"``. Default: none is named.
    run_dir : path, optional
        Where the pictures are; default: the directories that the rows come from.
    formats : str or iterable of str
        Formats of the table: ``"parquet"``, ``"csv"``, ``"tsv"``, ``"jsonl"``, ``"xlsx"``.
    pictures : {"copy", "link", "none"}
        ``"link"``: hard links where possible; they take no space, and must not be edited, as they are the files of the
        run directory.
    text : bool
        Write prompt, seed and job id into the copies without changing a pixel: as iTXt chunks in PNG, as a JSON comment
        in JPEG. WebP pictures stay as they are.
    excel_safe : bool
        Write CSV and TSV for spreadsheets: with the byte order mark by which Excel recognises UTF-8, and with cells
        that start like a formula escaped.
    cluster : dask.distributed.Client, concurrent.futures.Executor or int, optional
        Write the pictures in other processes: a Dask client (extra `dask`), any executor, or a number of processes of
        this machine. They must reach the run directory and the folder under the same paths.
    progress : bool
        Show a bar while files are written.

    Returns
    -------
    dict
        ``folder``, and the counts ``rows``, ``pictures``, ``missing`` (pictures that are gone or damaged) and, with
        `text`, ``without_text`` (pictures that can't hold text), with `to`, ``url`` (of the commit).

    Raises
    ------
    UsageError
        If an option can't be used, the source is not a results table, a file of yours would be replaced, or the
        upload is refused.
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
    dataset = None if to is None else read_address(to)
    if folder is None and dataset is None:
        raise UsageError(
            f"Pass {wording('a folder', '--output FOLDER')}, or {option('to', 'hf://datasets/OWNER/NAME')} to upload."
        )
    if licence is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.-]*", str(licence)):
        raise UsageError(f"licence={licence!r}: expected an identifier of the hub, such as cc-by-4.0.")
    results = read_results(source, columns.PROMPT)
    folders = folders_of(results, run_dir) or [run_dir_of(results, run_dir)]
    results = with_ratings(results, folders)
    place = tempfile.TemporaryDirectory() if folder is None else nullcontext(folder)
    with place as given, working(cluster=cluster, progress=progress):
        target = _target(given, folders)
        decided = decided_for(results, folders, _DECIDED)
        table = _flat(results, decided, folders)
        counts: dict[str, Any] = {} if folder is None else {"folder": str(target)}
        counts["rows"] = len(table)
        found = None if pictures == "none" else ExportedPictures(table, decided, folders)
        tables, copies = [], []
        if found is not None:
            paths = pd.Series(found.paths, dtype=columns.STR)
            table[columns.OUTPUT_PATH] = paths.reindex(table.index).fillna(table[columns.OUTPUT_PATH])
            tables = [Item(f"{_IMAGES}/metadata.csv", partial(content_of, found.lines, "metadata.csv"))]
            copies = [
                *_picture_files(found, has_text=text, is_linked=pictures == "link"),
                *_references(decided),
            ]
            counts |= {"pictures": len(found.lines), "missing": found.n_missing}
        known = _MEANINGS | (columns.RATED if rating_columns(table) else {})
        of_table = _describe(table, columns.INPUTS | columns.OUTPUTS | known)
        described = pd.DataFrame(of_table, columns=list(columns.DICTIONARY)).replace("", None)
        readme = fill_template(
            "export.md.j2",
            names=list(columns.DICTIONARY),
            formats=wanted,
            licence=licence,
            methods=_methods(table, decided, folders),
            results=of_table,
            pictures=None if found is None else _describe(found.lines, columns.PICTURES | known),
            escaped=_escaped,
        )
        own = {f"results.{suffix}": table for suffix in wanted} | {"columns.csv": described}
        explained = [
            Item(name, partial(content_of, table, name, excel_safe=excel_safe)) for name, table in own.items()
        ]
        explained.append(Item("README.md", lambda: _utf8(readme)))
        n_without_text = _write_folder(target, [*explained, *tables], copies)
        counts |= {"without_text": n_without_text} if text else {}
        if dataset is not None:
            counts["url"] = upload(target, *dataset, kept=counts.get("folder"))
    return counts


def _checked(formats: str | Iterable[str], pictures: str, *, text: bool) -> list[str]:
    wanted = names_in("formats", formats, _FORMATS, "format", is_ordered=False)
    check_choice("pictures", pictures, ("copy", "link", "none"))
    if text and pictures != "copy":
        raise UsageError(
            f"{option('text', value=True)} changes the exported files, so they can't be links. Pass "
            f"{option('pictures', 'copy')}; the run directory's own pictures are never changed."
        )
    return list(dict.fromkeys(wanted))


def _target(folder: str | os.PathLike[str], run_dirs: Iterable[Path]) -> Path:
    target = file_path("folder", folder).absolute()
    if target.resolve() in {RunDirectory(run_dir).path.resolve() for run_dir in dict.fromkeys(run_dirs)}:
        raise UsageError(f"{target} is the run directory itself. Export into another folder.")
    if (target.exists() or target.is_symlink()) and not target.is_dir():
        raise UsageError(f"{target} is not a folder. Pass another one.")
    return target


# Tables.


def _flat(results: pd.DataFrame, decided: pd.DataFrame, folders: Sequence[Path]) -> pd.DataFrame:
    """Return one flat table: the index as columns, and submitted values where a row had none."""
    table = with_index_as_columns(results, {*columns.OUTPUTS, *_SUBMITTED, columns.RUN_DIR})
    table = table.drop(columns=columns.RUN_DIR, errors="ignore")
    for name in _SUBMITTED:
        submitted = decided[name].astype(columns.INPUTS[name].dtype)
        table[name] = submitted.fillna(restore_input_dtype(name, table[name])) if name in table else submitted
    names = _short_names(folders)
    if len(names) > 1:
        table[columns.RUN_DIR] = pd.Series([names[folder] for folder in folders], dtype=columns.STR)
    return table


def _short_names(folders: Iterable[Path]) -> dict[Path, str]:
    """Name directories by as few of their last parts as distinguish them, because the folders above are private."""
    parts = {folder: folder.absolute().parts for folder in dict.fromkeys(folders)}
    for n in range(1, max(map(len, parts.values()), default=0) + 1):
        names = {folder: "/".join(of_one[-n:]) for folder, of_one in parts.items()}
        if len(set(names.values())) == len(names):
            break
    return names


# Pictures.


class ExportedPictures:
    """The pictures of rows: a line and a file for each, each row's path in the folder, and the number missing."""

    def __init__(self, table: pd.DataFrame, decided: pd.DataFrame, folders: Sequence[Path]) -> None:
        shown = table[columns.OUTPUT_PATH].dropna()
        names = shown.map(lambda path: PurePosixPath(path).name)
        names = names[names.str.fullmatch(_NAME)]
        free: dict[tuple[Path, str], str] = {}
        taken: set[str] = set()
        n_bytes, urls = table[columns.OUTPUT_BYTES].tolist(), table[columns.OUTPUT_URLS].tolist()
        known = []
        self.originals: list[Path] = []
        self.n_missing = 0
        for place, name in names.items():
            folder, shard = folders[place], _SHARD.match(shown[place])
            path = f"{shard[0] if shard else ''}{_IMAGES}/{name}"
            if (folder, name) in free:
                continue
            job = PurePosixPath(name).stem  # numbered if another directory has a picture of the same job
            stem = next(name for name in chain([job], (f"{job}_{n}" for n in count(2))) if name not in taken)
            free[folder, name] = stem
            taken.add(stem)
            first: dict[str, Any] | None = {} if pictures.is_in_place(folder, path, n_bytes[place]) else None
            further = pictures.further_paths(folder, path, urls[place])
            for found, facts in [(path, first), *((one, _facts_of(folder, one)) for one in further)]:
                if found is None or facts is None:
                    self.n_missing += 1
                else:
                    own = PurePosixPath(found).name.removeprefix(job)
                    known.append({"place": place, **facts, columns.FILE_NAME: f"{stem}{own}"})
                    self.originals.append(folder / found)
        self.lines = _lines(table, decided, known)
        self.paths = {
            place: f"{_IMAGES}/{free[folders[place], name]}{PurePosixPath(name).suffix}"
            for place, name in names.items()
        }


def _lines(table: pd.DataFrame, decided: pd.DataFrame, known: list[dict[str, Any]]) -> pd.DataFrame:
    """Return a line per picture, with the cells of the first row that shows it."""
    found = pd.DataFrame(known, columns=["place", columns.FILE_NAME, *_FURTHER]).set_index("place")
    rows = table.loc[found.index].reset_index(drop=True)
    jobs = decided.loc[found.index].reset_index(drop=True)
    lines = rows.assign(**{name: rows[source] for name, source in _SOURCES.items()})
    for name in _FURTHER:
        lines[name] = lines[name].where(found[name].isna().to_numpy(), found[name].to_numpy())
    lines[columns.FILE_NAME] = found[columns.FILE_NAME].to_numpy()
    references = references_of(jobs)
    references[columns.REFERENCE] = references[columns.IMAGE_SOURCE].map(_base_name)
    for name in (columns.REFERENCE, columns.IMAGE_DIGEST):
        lines[name] = references[name].dropna().groupby(level=0).agg(", ".join).reindex(lines.index)
    lines = columns.typed(lines[list(columns.PICTURES)], columns.PICTURES)
    ours = {*columns.INPUTS, *columns.OUTPUTS, *_LEFT_OUT} - {columns.RUN_DIR, *columns.INPUTS_OF_SOME}
    own = rows.loc[:, [name not in ours for name in rows.columns]]
    return pd.concat([lines, own.set_axis(_free_names(own.columns), axis=1)], axis=1)


def _facts_of(run_dir: Path, path: str | None) -> dict[str, Any] | None:
    """Return the facts about a further picture of a task (the first has the cost); None if it is damaged."""
    if path is None:
        return None
    try:
        content = (run_dir / path).read_bytes()
        _, width_px, height_px = pictures.inspect_picture(content)
    except (OSError, pictures.NotAPicture):
        return None
    return dict(zip(_FURTHER, (width_px, height_px, "0", sha256(content)), strict=True))


def _base_name(place: object) -> str | None:
    """Return the last part of a path or URL, because folders of the user's machine are private."""
    return PurePosixPath(urlsplit(place).path).name or None if isinstance(place, str) else None


def _free_names(names: Iterable[str]) -> list[str]:
    taken = {*columns.PICTURES, *columns.INPUTS} - {*columns.INPUTS_OF_SOME}
    free = []
    for name in map(str, names):
        fresh = f"{name}_text" if name in taken or name.endswith(_LOADED) else name
        while fresh in taken:
            fresh += "_"
        taken.add(fresh)
        free.append(fresh)
    return free


# Explanations.


def _methods(table: pd.DataFrame, decided: pd.DataFrame, folders: Sequence[Path]) -> str:
    """Describe how the pictures were made, in a paragraph for each run directory."""
    # Without duplicates, which repeat the job of an earlier row.
    keys = [name for name in (columns.RUN_DIR, columns.JOB_ID) if name in table]
    own = ~table.duplicated(keys) & table[columns.JOB_ID].notna()
    at, paragraphs = np.array(folders, dtype=object), []
    for folder in dict.fromkeys(folders):
        rows = table[own & (at == folder)[: len(table)]]
        cells = {name: rows[name] for name in (columns.PROMPT, columns.SEED_SENT, *_SUBMITTED)}
        jobs, manifest = decided.loc[rows.index].assign(**cells), RunDirectory(folder).read_manifest()
        made = Methods(jobs, rows[columns.STATUS], manifest)
        spent = total(Decimal(cost) for cost in rows[columns.COST].dropna())
        paragraphs.append(made.paragraph(rows[columns.SUBMITTED_AT], spent) + _kept(rows, spent))
    return "\n\n".join(paragraphs)


def _kept(table: pd.DataFrame, spent: Decimal) -> str:
    """Say how many pictures were picked, and the cost of each."""
    if not rating_columns(table) or table.empty:
        return ""
    n = int(table[columns.PICKED].sum())
    return f" {counted(n, 'picture')} picked" + (f", at {dollars(spent / n)} each." if n else ".")


def _describe(table: pd.DataFrame, known: Mapping[str, columns.Column]) -> list[tuple[str, ...]]:
    """Return name, dtype, unit and meaning of each column."""
    found = ((name, known.get(name, _YOURS)) for name in table.columns)
    return [(str(name), one.dtype or str(table[name].dtype), one.unit, one.meaning) for name, one in found]


def _escaped(name: str) -> str:
    """Return a name for Markdown."""
    if re.fullmatch(r"\w+", name):
        return f"`{name}`"
    return "".join(f"\\{letter}" if letter in _SPECIAL else letter for letter in " ".join(name.split()))


def _references(decided: pd.DataFrame) -> Iterator[Item]:
    """Yield each reference picture once, named by digest, except those at a URL."""
    used = references_of(decided)[[columns.IMAGE_DIGEST, columns.IMAGE_SENT, columns.IMAGE_SENT_DIGEST]]
    named = set()
    for digest, place, sent in used.dropna().drop_duplicates().itertuples(index=False, name=None):
        path = Path(place)
        if digest not in named and path.is_absolute() and path.is_file():
            named.add(digest)
            yield Item(f"references/{digest}{suffix_of(path.read_bytes())}", path.read_bytes, sha256=sent)


def _picture_files(pictures: ExportedPictures, *, has_text: bool, is_linked: bool) -> Iterator[Item]:
    lines = pictures.lines.astype(object).to_dict("records")
    for path, line in zip(pictures.originals, lines, strict=True):
        words = {name: line[name] for name in _INSCRIBED if not pd.isna(line[name])} if has_text else None
        name = f"{_IMAGES}/{line[columns.FILE_NAME]}"
        yield Item(name, path.read_bytes, path if is_linked else None, words, line[columns.OUTPUT_SHA256])


def inscribed(picture: bytes, words: Mapping[str, object]) -> bytes | None:
    """Return a picture with text in its metadata; None if its format can't hold any."""
    if picture.startswith(PNG):
        return _in_png(picture, words)
    comment = _utf8(json.dumps(dict(words), ensure_ascii=False))
    return with_comment(picture, comment) if picture.startswith(b"\xff\xd8") else None


def _in_png(picture: bytes, words: Mapping[str, object]) -> bytes:
    """Insert text chunks right before the pixels, after all other chunks, so that readers find them last."""
    at = len(PNG)
    while picture[at + 4 : at + 8] not in (b"IDAT", b""):
        at += 12 + int.from_bytes(picture[at : at + 4])
    # Keyword, not compressed, no language, text in UTF-8.
    texts = (name.encode("latin-1") + b"\0\0\0\0\0" + _utf8(str(word)) for name, word in words.items())
    return picture[:at] + b"".join(png_chunk(b"iTXt", text) for text in texts) + picture[at:]


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", errors="replace")


# The folder.


def _write_folder(folder: Path, tables: Sequence[Item], copies: Sequence[Item]) -> int:
    """Write files into a folder, and delete those of an earlier export; return how many can't hold their words."""
    known = _read_manifest(folder)
    names = {item.name for item in (*tables, *copies)}
    mine, pending = known.get(_FILES, {}), set(known.get(_PENDING, ()))  # pending: from an interrupted call
    _refuse_foreign(folder, {*names, *mine}, mine, pending)
    _write_manifest(folder, {_FILES: mine, _PENDING: sorted(names | pending)})
    place = partial(_place, folder)
    done = [(item, place(item)) for item in tables]
    done += each(copies, place, what="exporting", unit="file", n_workers=_WRITERS, is_portable=True)
    for name in (mine.keys() | pending) - names:
        (folder / name).unlink(missing_ok=True)
    _write_manifest(folder, {_FILES: {item.name: digest for item, (digest, *_) in done}})
    if changed := [item.name for item, (*_, is_changed) in done if is_changed]:
        warn(f"{counted(len(changed), 'picture')} changed since the run ({changed[0]}); exported as found")
    return sum(is_without for _, (_, is_without, _) in done)


def _refuse_foreign(folder: Path, names: set[str], mine: dict[str, str], pending: set[str]) -> None:
    existing = [name for name in sorted(names - pending) if (folder / name).exists()]
    if foreign := [name for name in existing if sha256((folder / name).read_bytes()) != mine.get(name)]:
        raise UsageError(
            f"Files in {folder} would be replaced that don't come from an export, or were changed since: "
            f"{listed(foreign, _NAMED_MAX)}. Nothing was written. Move them, or pass another folder."
        )


def _place(folder: Path, item: Item) -> tuple[str, bool, bool]:
    """Write one file unless it is there; return its digest, whether it can't hold its words, and if it had changed."""
    path, content = folder / item.name, item.content()
    is_changed = isinstance(item.sha256, str) and sha256(content) != item.sha256
    written = content if item.words is None else inscribed(content, item.words)
    content = content if written is None else written
    digest = sha256(content)

    def write(temporary: Path) -> None:
        try:
            temporary.hardlink_to(item.original or "")
        except OSError:  # no original, another disk, or one without hard links
            temporary.write_bytes(content)

    if not path.is_file() or sha256(path.read_bytes()) != digest:
        write_file(path, write)
    return digest, written is None, is_changed


def _read_manifest(folder: Path) -> dict[str, Any]:
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        names = [Path(name) for name in [*known[_FILES], *known.get(_PENDING, ())]]
        inside = all(name.parts and not name.is_absolute() and ".." not in name.parts for name in names)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        inside = False
    if not inside:
        raise UsageError(f"{folder / MANIFEST} is not a list of exported files. Pass another folder.")
    return dict(known)


def _write_manifest(folder: Path, known: dict[str, Any]) -> None:
    content = _utf8(json.dumps(known, indent=1, ensure_ascii=False) + "\n")
    _place(folder, Item(MANIFEST, lambda: content))


# The Hugging Face hub.

# https://huggingface.co/docs/huggingface_hub/guides/hf_file_system names datasets in this way.
_ADDRESS: Final = re.compile(r"hf://datasets/([\w.-]+/[\w.-]+)(?:/([\w./-]+?))?/?")


def read_address(address: object) -> tuple[str, str | None]:
    """Parse `hf://datasets/OWNER/NAME[/FOLDER]`, and check that uploading is possible."""
    match = _ADDRESS.fullmatch(address) if isinstance(address, str) else None
    if match is None:
        raise UsageError(
            f'{wording(f"to={address!r}", f"--to {address}")}: expected "hf://datasets/OWNER/NAME".'
        )
    load_extra("huggingface_hub", "Uploading needs", "hub")  # before anything is written
    return match[1], match[2]


def upload(folder: Path, dataset: str, path: str | None, *, kept: str | None) -> str:
    """Upload a folder in one commit, creating a private dataset if necessary; return the URL of the commit."""
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(dataset, repo_type="dataset", private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=dataset,
            repo_type="dataset",
            folder_path=folder,
            path_in_repo=path,
            commit_message="Export of dreamo-batch",
        )
    except Exception as error:  # the hub raises many kinds of errors: refused, offline, too large
        raise UsageError(
            f"Can't upload to {dataset} ({first_line(error)}).{f' The export is in {kept}.' if kept else ''} If the "
            "hub refused it, check that the dataset is yours and that you are logged in: hf auth login, or HF_TOKEN."
        ) from error
    return str(commit.commit_url)


# How pictures were made: counts, and the paragraph for a methods section.

UNKNOWN: Final = "unknown"
LOOPBACK: Final = "loopback"  # the service name of a gateway on the same machine
_SIZES_MAX: Final = 6
_ENDED: Final = (columns.COMPLETED, columns.FAILED)


class Methods:
    """Counts of the inputs and outcomes of a run's distinct jobs."""

    def __init__(self, jobs: pd.DataFrame, statuses: pd.Series[str], manifest: Manifest | None) -> None:
        counts = statuses.value_counts()
        self.model = " and ".join(jobs[columns.MODEL].dropna().unique()) or contract.MODEL
        self.service = manifest.service if manifest else UNKNOWN
        self.is_local = self.service == LOOPBACK  # the local gateway's pictures are previews
        self.run_version = (manifest and manifest.package_version) or version("dreamo-batch")
        self.n_jobs = len(jobs)
        self.n_prompts = jobs[columns.PROMPT].nunique()
        self.n_references = references_of(jobs)[columns.IMAGE_DIGEST].nunique()
        self.n_seeds = jobs[columns.SEED_SENT].nunique()
        self.n_replicates = jobs[columns.REPLICATE].nunique()
        self.n_rephrased = int(jobs[columns.USE_REPHRASER].sum())
        self.sizes: dict[str, int] = columns.sizes(jobs).value_counts().to_dict()
        self.outcomes = {status: int(n) for status in columns.STATUSES if (n := counts.get(status))}
        self.sample: Mapping[str, int] = manifest.sample if manifest else {}

    def paragraph(self, sent: pd.Series[pd.Timestamp], spent: Decimal | None, drawn: str = "") -> str:
        """Return a paragraph for a methods section; `drawn` are the jobs whose seeds were drawn."""
        days = sent.dropna().dt.date
        has_several = len(self.sizes) > 1
        ends = [
            f"{'' if status in _ENDED else 'remained '}{PALETTE[status].word}" for status in self.outcomes
        ]
        text = fill_template(
            "methods.md.j2",
            made=self,
            days=[days.min(), days.max()] if len(days) else [],
            drawn=drawn,
            sizes=[f"{size} ({n:,})" if has_several else size for size, n in self.sizes.items()],
            n_sizes_max=_SIZES_MAX,
            ends=ends,
            counts=[f"{n:,} {end}" for n, end in zip(self.outcomes.values(), ends, strict=True)],
            spent=UNKNOWN if spent is None else dollars(spent),
            counted=counted,
            joined=joined,
            short=partial(one_line, n_max=40),
        )
        return " ".join(text.split())
