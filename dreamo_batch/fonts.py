"""Letters for pictures: a font of this machine that has them, or none. No font comes with the package."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import ImageFont

from dreamo_batch.errors import UsageError

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Sequence

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


_CHINESE: Final = "\u96ea"
_LACKING: Final = "\U0010fffe"  # no font has a letter for it, so that it shows what a font draws instead
_FOLDERS: Final = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_NAMES: Final = (
    "DejaVuSans.ttf",  # Latin with accents, Greek and Cyrillic, which the built-in font lacks too
    "NotoSans-Regular.ttf",
    "LiberationSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "NotoSansCJKsc-Regular.otf",
    "NotoSansSC-Regular.otf",
    "SourceHanSansSC-Regular.otf",
    "SourceHanSansCN-Regular.otf",
    "wqy-microhei.ttc",
    "wqy-zenhei.ttc",
    "DroidSansFallbackFull.ttf",
)
_PATHS: Final = (
    "/System/Library/Fonts/Supplemental/Arial.ttf",
    "/System/Library/Fonts/PingFang.ttc",
    "/System/Library/Fonts/Hiragino Sans GB.ttc",
    "/System/Library/Fonts/STHeiti Light.ttc",
    "C:/Windows/Fonts/arial.ttf",
    "C:/Windows/Fonts/msyh.ttc",
    "C:/Windows/Fonts/simhei.ttf",
)


class Lettering:
    """Chooses a font that has every letter of a text."""

    def __init__(
        self,
        font: str | os.PathLike[str] | None = None,
        others: Iterable[str | os.PathLike[str]] | None = None,
    ) -> None:
        found = _of_machine() if others is None else tuple(Path(other) for other in others)
        self._files: list[Path | None] = [*([] if font is None else [Path(font)]), None, *found]
        if font is not None and _opened(self._files[0], 20) is None:
            raise UsageError(f"font={str(font)!r} can't be read as a font; give a .ttf, .otf or .ttc file.")

    @property
    def files(self) -> tuple[Path, ...]:
        """The font files, those asked for first before those of this machine."""
        return tuple(file for file in self._files if file is not None)

    def font_for(self, text: str, size_px: int) -> Font | None:
        """Give the first font that has all letters of a text; None if none has."""
        for file in self._files:
            font = _opened(file, size_px)
            if font is not None and _has_all(file, text):
                return font
        return None


def wrapped(text: str, font: Font, width_px: int, n_lines_max: int) -> list[str]:
    """Break a text into lines that fit, between words, or anywhere where there is no blank, as in Chinese."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < n_lines_max:
        n = _n_fitting(rest, font, width_px)
        if n < len(rest) and (blank := rest.rfind(" ", 0, n + 1)) > n // 3:
            n = blank
        lines.append(rest[:n].rstrip())
        rest = rest[n:].lstrip()
    if rest and lines:
        last = f"{lines[-1]} {rest}"
        lines[-1] = (
            last[: max(1, _n_fitting(last, font, width_px - round(font.getlength("…"))))].rstrip() + "…"
        )
    return lines


def fitted(
    text: str, lettering: Lettering, room: tuple[int, int], sizes_px: Sequence[int]
) -> tuple[int, list[str]]:
    """Write a text as large as it fits a width and a height, at the least of the sizes cut if need be."""
    width, height = room
    for size_px in sizes_px:
        font = lettering.font_for(text, size_px) or ImageFont.load_default(size_px)
        lines = wrapped(text, font, width, max(1, height // line_px(size_px)))
        if not is_cut(lines, text):
            break
    return size_px, lines


def line_px(size_px: int) -> int:
    """Give the height of a line of letters."""
    return round(size_px * 1.3)


def is_cut(lines: Sequence[str], text: str) -> bool:
    """Say whether lines are not the whole text."""
    return "".join("".join(lines).split()) != "".join(text.split())


def _n_fitting(text: str, font: Font, width_px: int) -> int:
    low, high = 1, min(len(text), 400)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width_px else (low, middle - 1)
    return low


@functools.lru_cache(maxsize=64)
def _opened(file: Path | None, size_px: int) -> Font | None:
    """Open a font; None for the one that comes with Pillow."""
    try:
        return ImageFont.load_default(size_px) if file is None else ImageFont.truetype(file, size_px)
    except OSError:
        return None


@functools.lru_cache(maxsize=4_096)
def _has(file: Path | None, letter: str) -> bool:
    font = _opened(file, 20)
    if font is None:
        return False
    mask, lacking = font.getmask(letter), font.getmask(_LACKING)
    return letter.isspace() or (mask.size, bytes(mask)) != (lacking.size, bytes(lacking))


def _has_all(file: Path | None, text: str) -> bool:
    return all(_has(file, letter) for letter in dict.fromkeys(text))


@functools.cache
def _of_machine() -> tuple[Path, ...]:
    """Find fonts by well-known names; fontconfig is asked where none of them has Chinese letters."""
    there: dict[str, Path] = {}
    for folder in (Path(folder).expanduser() for folder in _FOLDERS):
        there |= {path.name: path for path in sorted(folder.rglob("*.[to]t[cf]"))} if folder.is_dir() else {}
    known = [path for path in map(Path, _PATHS) if path.is_file()]
    known += [there[name] for name in _NAMES if name in there]
    has_chinese = any(_has(path, _CHINESE) for path in known)
    return tuple(known if has_chinese else [*known, *filter(_is_chinese, _asked())])


def _is_chinese(path: Path) -> bool:
    return _has(path, _CHINESE)


def _asked() -> list[Path]:
    program = shutil.which("fc-match")
    if program is None:
        return []
    try:
        words = [program, "--format=%{file}", "sans-serif:lang=zh-cn"]
        answer = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - our own words
    except (OSError, subprocess.SubprocessError):
        return []
    return [Path(answer.stdout)] if Path(answer.stdout).is_file() else []
