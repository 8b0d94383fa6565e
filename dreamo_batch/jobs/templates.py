"""Prompt templates: a text with names in braces, each filled in with the values of an axis."""

from __future__ import annotations

import re
from string import Formatter
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import TableError, UsageError, file_given
from dreamo_batch.jobs.cells import decoded, is_missing, show

if TYPE_CHECKING:
    import os
    from collections.abc import Collection, Mapping, Sequence

# What a template leaves in a prompt whose names were never filled in.
BRACES: Final = re.compile(r"\{[^{}]*\}")


def lines(path: str | os.PathLike[str]) -> list[str]:
    r"""Read the values of an axis from a text file, one a line.

    Parameters
    ----------
    path : path-like
        A file in UTF-8. Blank lines are skipped, and so are blanks at the ends of a line.

    Returns
    -------
    list of str
        The lines, in order.

    Raises
    ------
    TableError
        If there is no such file, it isn't UTF-8, or all of its lines are blank.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp()) / "places.txt"
    >>> _ = path.write_text("beach\n\nforest\n")
    >>> lines(path)
    ['beach', 'forest']
    """
    file = file_given("path", path)
    try:
        text = decoded(file, file.read_bytes())
    except OSError as error:
        raise TableError(f"{file} can't be read: {error.strerror or error}.") from error
    found = [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
    if not found:
        raise TableError(f"{file} has no lines but blank ones. Write one value a line.")
    return found


def check_names(templates: Sequence[str], axes: Collection[str], own: Collection[str]) -> None:
    """Refuse names that are no axis, and axes of the user's own that no template names."""
    named = {name for template in templates for _, name in _parts(template) if name is not None}
    unknown = sorted(named - set(axes))
    if unknown:
        raise UsageError(
            f"template: {{{unknown[0]}}} isn't an axis; the axes are {', '.join(axes) or 'none'}. Pass "
            f"{unknown[0]}=, or double the braces to keep them in the prompt."
        )
    unused = [name for name in own if name not in named]
    if unused:
        raise UsageError(
            f"{unused[0]}: no template names this axis. Write {{{unused[0]}}} where its value belongs, or add the "
            "column to the table that sweep returns."
        )


def fill(template: str, values: Mapping[str, Any]) -> str:
    """Return a template's text with the values of a row."""
    return "".join(text if name is None else _shown(name, values[name]) for text, name in _parts(template))


def _shown(name: str, value: Any) -> str:
    if is_missing(value):
        raise UsageError(
            f"{name}: a value is missing, so the template can't be filled in. Pass a value, or omit it."
        )
    return str(value)


def _parts(template: str) -> list[tuple[str, str | None]]:
    """Return the parts of a template: text, or the name of an axis."""
    try:
        parsed = list(Formatter().parse(template))
    except ValueError as error:
        raise _unreadable(template, str(error)) from None
    parts: list[tuple[str, str | None]] = []
    for text, name, form, conversion in parsed:
        parts.append((text, None))
        if name is not None:
            if not name.strip().isidentifier() or form or conversion:
                raise _unreadable(template, "expected names in braces, such as {place}")
            parts.append(("", name.strip()))
    return parts


def _unreadable(template: str, reason: str) -> UsageError:
    return UsageError(
        f"template: can't read {show(template)!r} ({reason}). Double the braces that belong in the prompt."
    )
