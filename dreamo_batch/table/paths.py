"""Paths to pictures as people write them: in another Unicode form, in quotes, with other capitals.

Examples
--------
>>> same_name("caf\u0065\u0301.png", " 'caf\u00e9.png' "), same_name("cat.PNG", "cat.png")
(True, False)
"""

from __future__ import annotations

import functools
import glob
import os
import unicodedata
from pathlib import Path
from typing import Final

QUOTES: Final = "\"'`\u2018\u2019\u201c\u201d"
AROUND: Final = " \t\r\n\u00a0\u3000\ufeff\u200b" + QUOTES


def same_name(path: str, other: str) -> bool:
    """Return whether two paths differ only in Unicode form and in blanks or quotes around their parts.

    Examples
    --------
    >>> same_name("/data/cat.png", "/data/ cat.png")
    True
    """
    return _parts(path) == _parts(other)


def nearest(path: str) -> str | None:
    """Find the one file that a path which leads nowhere may mean.

    Parameters
    ----------
    path : str
        Absolute.

    Returns
    -------
    str or None
        A path that differs only in Unicode form, capitals, and blanks or quotes around its parts, preferably not in
        capitals; None if there is none, or several are equally near.

    Examples
    --------
    >>> nearest("/no/such/cat.png")
    """
    found = [Path(os.sep)]
    for part in _parts(path):
        found = [entry for folder in found for entry in _entries(folder, part)]
    files = [str(one) for one in found if one.is_file()]
    exact = [one for one in files if same_name(one, path)]
    best = exact or files
    return best[0] if len(best) == 1 else None


def matching(pattern: str) -> tuple[list[str], list[str]]:
    """Find the files that a glob pattern matches, and those that it misses by capitals only.

    Parameters
    ----------
    pattern : str
        As for `glob.glob`, recursive; its text is taken in any Unicode form.

    Returns
    -------
    tuple of list of str
        Both sorted.

    Examples
    --------
    >>> matching("/no/such/*.png")
    ([], [])
    """
    forms = dict.fromkeys([pattern, *(unicodedata.normalize(form, pattern) for form in ("NFC", "NFD"))])
    found = {path for form in forms for path in _files(form)}
    near = {path for form in forms for path in _files(_any_capitals(form))}
    return sorted(found), sorted(near - found)


def _files(pattern: str) -> list[str]:
    return [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207 - any pattern


def _any_capitals(pattern: str) -> str:
    written, is_inside = [], False
    for character in pattern:
        is_inside = character == "[" or (is_inside and character != "]")
        both = {character.lower(), character.upper()}
        is_plain = len(both) == 1 or any(len(one) != 1 for one in both)
        if is_plain:
            written.append(character)
        else:
            written.append("".join(sorted(both)) if is_inside else f"[{''.join(sorted(both))}]")
    return "".join(written)


def _parts(path: str) -> list[str]:
    parts = unicodedata.normalize("NFC", path).strip(AROUND).split("/")
    return [stripped for part in parts if (stripped := part.strip(AROUND))]


def _entries(folder: Path, part: str) -> list[Path]:
    """List what a part of a path may mean in a folder; as it is written, if that is there."""
    if (folder / part).exists():
        return [folder / part]
    try:
        listed = _listed(folder, folder.stat().st_mtime_ns)
    except OSError:
        return []
    return [folder / name for name in listed.get(part.casefold(), ())]


@functools.lru_cache(maxsize=64)
def _listed(folder: Path, _mtime_ns: int) -> dict[str, list[str]]:
    """Return the names in a folder by what is compared of them; a table may name thousands of files that are gone."""
    listed: dict[str, list[str]] = {}
    for name in os.listdir(folder):  # noqa: PTH208 - only the names
        listed.setdefault("".join(_parts(name)).casefold(), []).append(name)
    return listed
