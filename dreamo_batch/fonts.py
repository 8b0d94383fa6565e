"""Fonts for text in pictures (the machine's, or the one that comes with Pillow), and line breaking."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from PIL import ImageFont

from dreamo_batch.errors import UsageError, logger_named
from dreamo_batch.files import toml_beside
from dreamo_batch.images import pillow_settings
from dreamo_batch.text import option, shortened

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


_CHINESE: Final = "\u96ea"
_REPORTED_MAX: Final = 60
_LACKING: Final = "\U0010fffe"  # in no font, so it shows what a font draws for a missing letter
_BEYOND_LATIN: Final = "\u0250"
_KNOWN: Final = toml_beside(__file__, "fonts.toml")
_logger: Final = logger_named(__name__)
_reported: Final[set[str]] = set()  # letters already reported in this process


class Fonts:
    """Chooses a font that has every letter of a text."""

    def __init__(self, font: str | os.PathLike[str] | None = None) -> None:
        self._files: list[Path | None] = [*([] if font is None else [Path(font)]), None, *machine_fonts()]
        if font is not None and _opened(Path(font), 20) is None:
            raise UsageError(
                f"Can't read {option('font', str(font))} as a font; pass a .ttf, .otf or .ttc file."
            )

    def font_for(self, text: str, size_px: int) -> Font | None:
        """Return the first font that has all letters of a text; None if there is none."""
        for file in self._files:
            font = _opened(file, size_px)
            if font is not None and all(_has(file, letter) for letter in dict.fromkeys(text)):
                return font
        return None

    def font_or_default(self, text: str, size_px: int) -> Font:
        """Return a font for a text, even if none has all its letters."""
        return self.font_for(text, size_px) or ImageFont.load_default(size_px)

    def missing_letters(self, text: str) -> set[str]:
        """Return the letters of a text that no font has; log them once."""
        letters = {letter for letter in text if self.font_for(letter, 20) is None}
        shown = " ".join(sorted(letter for letter in letters if letter.isprintable()))
        if shown and not _reported:
            _reported.add(shown)
            _logger.warning(
                "No font found here has %s; labels leave them out. Install one that does, such as Noto Emoji "
                "or the Noto Sans of that script.",
                shortened(shown, _REPORTED_MAX),
            )
        return letters

    def drawable(self, text: str) -> str:
        """Return the part of a text that one font can draw."""
        lacking = self.missing_letters(text)
        known = "".join(letter for letter in text if letter not in lacking)
        latin = "".join(letter for letter in text if letter < _BEYOND_LATIN)
        found = next((part for part in (text, known) if self.font_for(part, 20)), latin)
        return " ".join(found.split())


def wrapped(text: str, font: Font, width_px: int, n_lines_max: int) -> list[str]:
    """Break a text into lines that fit: between words, or anywhere in scripts without spaces such as Chinese."""
    lines: list[str] = []
    rest = " ".join(text.split())
    while rest and len(lines) < n_lines_max:
        n = _n_fitting(rest, font, width_px)
        if n < len(rest) and (blank := rest.rfind(" ", 0, n + 1)) > n // 3:
            n = blank
        n = next((at for at in range(n, 0, -1) if not re.fullmatch(_KNOWN["torn"], rest[at - 1 : at + 1])), n)
        lines.append(rest[:n].rstrip())
        rest = rest[n:].lstrip()
    if rest and lines:
        last = f"{lines[-1]} {rest}"
        n = _n_fitting(last, font, width_px - round(font.getlength("…")))
        lines[-1] = last[: max(1, n)].rstrip() + "…"
    return lines


def fitted(text: str, fonts: Fonts, room: tuple[int, int], sizes_px: Sequence[int]) -> tuple[int, list[str]]:
    """Return the largest size at which a text fits a width and a height, and its lines; cut at the smallest size."""
    width, height = room
    for size_px in sizes_px:
        lines = wrapped(text, fonts.font_or_default(text, size_px), width, max(1, height // line_px(size_px)))
        if not is_cut(lines, text):
            break
    return size_px, lines


def line_px(size_px: int) -> int:
    """Return the height of a line of text."""
    return round(size_px * 1.3)


def is_cut(lines: Sequence[str], text: str) -> bool:
    """Return whether lines lack part of the text."""
    return "".join("".join(lines).split()) != "".join(text.split())


def _n_fitting(text: str, font: Font, width_px: int) -> int:
    low, high = 1, min(len(text), 400)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(text[:middle]) <= width_px else (low, middle - 1)
    return low


@functools.lru_cache(maxsize=64)
def _opened(file: Path | None, size_px: int) -> Font | None:
    """Open a font (None: the one that comes with Pillow); return None if it can't be read."""
    try:
        return ImageFont.load_default(size_px) if file is None else ImageFont.truetype(file, size_px)
    except OSError:
        return None


@functools.lru_cache(maxsize=4_096)
def _has(file: Path | None, letter: str) -> bool:
    font = _opened(file, 20)
    if font is None:
        return False
    # A combining mark alone is drawn on a dotted circle, so it would never look like a missing letter.
    if unicodedata.category(letter) in {"Mn", "Mc"} and isinstance(font, ImageFont.FreeTypeFont):
        font = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    with pillow_settings:  # the user's limit on pixels would also limit letters
        mask, lacking = font.getmask(letter), font.getmask(_LACKING)
    return letter.isspace() or (mask.size, bytes(mask)) != (lacking.size, bytes(lacking))


@functools.cache
def machine_fonts() -> tuple[Path, ...]:
    """Find font files by well-known names; ask fontconfig if none of them has Chinese letters."""
    found: dict[str, Path] = {}
    for folder in (Path(folder).expanduser() for folder in _KNOWN["folders"]):
        found |= {path.name: path for path in sorted(folder.rglob("*.[to]t[cf]"))} if folder.is_dir() else {}
    known = [path for path in map(Path, _KNOWN["paths"]) if path.is_file()]
    known += [found[name] for name in _KNOWN["names"] if name in found]
    if not any(_has(path, _CHINESE) for path in known):
        known += [path for path in _fontconfig() if _has(path, _CHINESE)]
    return tuple(known)


def _fontconfig() -> list[Path]:
    """Ask fontconfig for a Chinese font, if it is installed."""
    program = shutil.which("fc-match")
    if program is None:
        return []
    command = [program, "--format=%{file}", "sans-serif:lang=zh-cn"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603 - a fixed command
    except (OSError, subprocess.SubprocessError):
        return []
    return [Path(answer.stdout)] if Path(answer.stdout).is_file() else []
