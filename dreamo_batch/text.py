"""Text for people: harmless text, counts and times, options as their user writes them, and HTML templates."""

from __future__ import annotations

import base64
import difflib
import functools
import getpass
import os
import re
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.money import exact_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from jinja2 import Environment

# Control characters (C0, C1, DEL), marks that turn the direction of writing, line separators, half characters.
_HARMFUL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_PATH: Final = re.compile(r".*[/\\][^/\\]+\.\w{1,5}", re.DOTALL)
_AMOUNT: Final = re.compile(r"\d{1,4}\.\d{1,12}", re.ASCII)  # would be a different amount if it were cut
_MINUTE_S: Final = 60
_UNITS: Final = ((86_400, "d", 3600, "h"), (3600, "h", _MINUTE_S, "min"), (_MINUTE_S, "min", 1, "s"))
_FOLDER: Final = Path(__file__).parent / "display"
_CELL_MAX: Final = 60
_CELL_MIN: Final = 10
_LAST_MIN: Final = 24
_GAP: Final = 2

# HTML classes in which notebooks don't look for formulas: they would typeset what is between two dollar signs.
NO_FORMULAS: Final = "mathjax_ignore tex2jax_ignore"


def harmless(text: str) -> str:
    """Escape characters that a terminal or a page would act on instead of showing them."""
    return _HARMFUL.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), text)


def one_line(words: object, n_max: int) -> str:
    """Return text from outside as one harmless line of limited length."""
    return shortened(harmless(" ".join(str(words).split())), n_max)


def shortened(text: str, n_max: int) -> str:
    """Cut a text to a length with an ellipsis; a path is cut at the beginning, because its end says most."""
    if len(text) <= n_max:
        return text
    return "…" + text[1 - n_max :].lstrip() if _PATH.fullmatch(text) else text[: n_max - 1].rstrip() + "…"


def user_name() -> str:
    """Return the name of the user who runs this process, or the user id if it has no name, as in a container."""
    try:
        return harmless(getpass.getuser())
    except (KeyError, OSError):
        return str(os.getuid())


def type_of(value: object) -> str:
    """Return the name of a value's type with its article: "a list", "an int"."""
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def quoted(value: object) -> str:
    """Return a value as messages show it: its repr if that is one short line, else its type."""
    text = repr(value)
    return text if len(text) <= _CELL_MAX and text.isprintable() else type_of(value)


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message; some libraries append a dump of the request."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def counted(n: int, noun: str) -> str:
    """Return a count with its noun: "1 row", "2,000 rows"."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def listed(names: Iterable[object], n_max: int = 20) -> str:
    """Return names as a list in a sentence, and how many more there are than `n_max`."""
    shown = list(map(str, names))
    n_more = len(shown) - n_max
    return ", ".join(shown[:n_max]) + (f" and {n_more:,} more" if n_more > 0 else "")


def did_you_mean(name: object, known: Iterable[object]) -> str:
    """Return "did you mean ...?" with the known name most like an unknown one, or else the known names."""
    names = list(map(str, known))
    near = difflib.get_close_matches(str(name), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names)}."


def clock_time(seconds: float) -> str:
    """Return a time in the local time zone, with its offset."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S %z}"


def duration(seconds: float) -> str:
    """Return a duration in its two largest units."""
    whole = max(0, round(seconds))
    for unit_s, unit, part_s, part in _UNITS:
        if whole >= unit_s:
            rest = whole % unit_s // part_s
            return f"{whole // unit_s} {unit}" + (f" {rest} {part}" if rest else "")
    return f"{whole} s"


_is_shell = False  # one setting for all threads, since a run has several


@contextmanager
def shell_words() -> Iterator[None]:
    """Name options and calls as on the command line, inside the block."""
    global _is_shell  # noqa: PLW0603 - see above
    before, _is_shell = _is_shell, True
    try:
        yield
    finally:
        _is_shell = before


def wording(python: str, shell: str) -> str:
    """Return the text for Python users or for users of the command line."""
    return shell if _is_shell else python


def option(keyword: str, value: object = None) -> str:
    """Return an option as its user writes it, such as `fix_images=True` or `--fix-images`; None means no value."""
    shown = "" if value is None else exact_text(value) if isinstance(value, Decimal) else str(value)
    quoted = f'"{value}"' if isinstance(value, str) else shown
    flag = f"--{keyword.replace('_', '-')}"
    return wording(f"{keyword}={quoted}", flag if value is None or value is True else f"{flag} {shown}")


def local_option() -> str:
    """Return the option for using the local gateway."""
    return wording('gateway="local"', "--local")


def same_call() -> str:
    """Return "the same call" or "the same command"."""
    return wording("the same call", "the same command")


def aligned(names: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None = None) -> str:
    """Return a table in aligned columns for a terminal of `width`; long cells are cut, except in the last column."""
    from tabulate import tabulate
    from wcwidth import clip, wcswidth

    cells = [["" if cell is None else harmless(str(cell)) for cell in row] for row in [names, *rows]]
    *widths, last = [max(map(wcswidth, column)) for column in zip(*cells, strict=True)]
    room = None if width is None else width - min(last, _LAST_MIN)
    n_max = _CELL_MAX
    while room is not None and n_max > _CELL_MIN and sum(min(n, n_max) + _GAP for n in widths) > room:
        n_max -= 1

    def cut(cell: str) -> str:
        wide = wcswidth(cell)
        if wide <= n_max or _AMOUNT.fullmatch(cell):
            return cell
        is_path = _PATH.fullmatch(cell)
        return (
            "…" + clip(cell, wide - n_max + 1, wide) if is_path else clip(cell, 0, n_max - 1).rstrip() + "…"
        )

    cut_cells = [[*map(cut, row[:-1]), row[-1]] for row in cells]
    is_number = [all(map(_is_number, column)) for column in zip(*rows, strict=True)] or [False] * len(names)
    return tabulate(  # names are passed as a row, because tabulate widens headers
        cut_cells,
        tablefmt="plain",
        disable_numparse=True,
        colalign=["right" if is_right else "left" for is_right in is_number],
    )


def _is_number(cell: object) -> bool:
    return cell is None or (isinstance(cell, int | float) and not isinstance(cell, bool))


@functools.cache
def templates() -> Environment:
    """Return the environment of the HTML templates and style sheets; it escapes every value."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([_FOLDER / "templates", _FOLDER / "assets"]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = "{:,}".format
    environment.filters["base64"] = lambda content: base64.b64encode(content).decode("ascii")
    environment.globals["no_formulas"] = NO_FORMULAS
    return environment


def fill_template(template: str, **values: Any) -> str:
    """Fill in a template."""
    return templates().get_template(template).render(values)


def joined(parts: Sequence[str]) -> str:
    """Join parts with commas and "and"."""
    return " and ".join([*filter(None, [", ".join(parts[:-1])]), *parts[-1:]])
