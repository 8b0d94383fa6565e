"""A folder to hand out: files are whole or not there, and what somebody else put there stays as it is."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import UsageError
from dreamo_batch.execution import durable
from dreamo_batch.table.looking import ticking

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MANIFEST: Final = "export.json"
_FILES: Final = "sha256"
_PENDING: Final = "pending"
_NAMED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Item:
    """A file to be put into the folder.

    Attributes
    ----------
    name : str
        Where in the folder, with ``/`` between parts.
    content : callable
        Gives its bytes.
    original : pathlib.Path, optional
        File with these very bytes that it may be a hard link of.
    """

    name: str
    content: Callable[[], bytes]
    original: Path | None = None


def deliver(folder: Path, items: Sequence[Item], *, progress: bool = False) -> None:
    """Put files into a folder, so that of ours exactly these are there.

    Files that an earlier call put there are replaced, or deleted where they are no longer among the items; with the
    same items nothing changes. Its list of files, `export.json`, tells them from other people's.

    Parameters
    ----------
    folder : pathlib.Path
        Made if missing.
    items : sequence of Item
        The files.
    progress : bool
        Show a bar.

    Raises
    ------
    UsageError
        If one would take the place of a file that is not ours, or was changed since; nothing was written.
    OSError
        If the folder can't be written to.
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
        durable.replace(path, lambda temporary: _make(temporary, content, item.original))
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
        durable.replace(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
