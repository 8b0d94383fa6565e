"""Check what callers pass: numbers, flags, words, names, amounts, paths and functions."""

from __future__ import annotations

import inspect
import numbers
import os
import re
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from dreamo_batch.errors import UsageError
from dreamo_batch.money import Amount, money
from dreamo_batch.text import did_you_mean, quoted, type_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from decimal import Decimal


_INFINITE: Final = frozenset({"inf", "infinity"})
# What people mean as a URL; `a:/b` could be a folder, but hardly ever is.
LIKE_URL: Final = re.compile(r"\s*(?:[A-Za-z][A-Za-z0-9+.-]+:/|(?:s3|gs|az):)")
_FILE_NAME_BYTES_MAX: Final = 255  # of nearly every file system


def check_count(name: str, value: Any, least: int = 1) -> None:
    """Raise unless the value of an argument is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise UsageError(f"{name}={quoted(value)}: expected a whole number of at least {least}.")


def is_number(value: Any) -> bool:
    """Whether an argument is a real number; True and False aren't."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_amount(name: str, value: Amount | None, *, unless: str = "") -> Decimal | None:
    """Return an amount in USD; None if it isn't given, or infinite where `unless` says what that means."""
    amount = money(value)
    if amount is None and value is not None and not (unless and str(value).lower() in _INFINITE):
        or_inf = unless and f", or inf for {unless}"
        raise UsageError(f"{name} must be an amount in USD of at least 0{or_inf}, not {quoted(value)}")
    return amount


def check_seconds(name: str, value: Any) -> None:
    """Raise unless the value of an argument is a number of seconds."""
    if not is_number(value) or value != value:  # noqa: PLR0124 - NaN
        raise UsageError(f"{name}={quoted(value)}: expected a number of seconds.")


def check_flag(name: str, value: Any) -> bool:
    """Return an argument that is True or False (of Python or NumPy); raise for any other."""
    if type(value).__name__ in ("bool", "bool_"):  # without importing NumPy
        return bool(value)
    raise UsageError(f"{name} must be True or False, not {quoted(value)}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless the value of an argument is one of some words."""
    if not isinstance(value, str) or value not in choices:
        raise UsageError(f"{name}={quoted(value)}: expected one of {', '.join(map(repr, choices))}.")


def check_text(name: str, value: Any) -> None:
    """Raise unless the value of an argument is text."""
    if not isinstance(value, str):
        raise UsageError(f"{name} must be text, not {type_of(value)}.")


def names_in(
    argument: str, names: Any, known: Any = None, what: str = "column", *, is_ordered: bool = True
) -> list[Any]:
    """Return the names that an argument lists (one, several or none); raise if one isn't known."""
    if names is None:
        return []
    try:
        several = [names] if isinstance(names, str) or not isinstance(names, Iterable) else list(names)
        is_list = not isinstance(names, Mapping | bytes) and getattr(names, "ndim", 0) <= 1
        is_list = is_list and all(bool({name} and name == name) for name in several)  # noqa: PLR0124 - NaN
    except TypeError:  # lists, arrays, pandas.NA
        is_list = False
    if not is_list or (is_ordered and isinstance(names, set | frozenset) and len(names) > 1):
        raise UsageError(f"{argument}: expected one name, or a list of names in order, not {quoted(names)}.")
    names_known = list(dict.fromkeys(several if known is None else known))
    if unknown := [name for name in several if name not in names_known]:
        raise UsageError(f"{argument}: no {what} {unknown[0]!r}; {did_you_mean(unknown[0], names_known)}")
    return several


def is_function_of(n_arguments: int, function: Any) -> bool:
    """Whether an object can be called with so many arguments and isn't async, as far as its signature tells."""
    if not callable(function) or any(map(inspect.iscoroutinefunction, (function, type(function).__call__))):
        return False
    try:
        inspect.signature(function).bind(*[None] * n_arguments)
    except TypeError:
        return False
    except ValueError:  # some built-in functions have no signature
        return True
    return True


def check_path(name: str, path: object, *, is_local: bool = True) -> str:
    """Return a path argument as text; raise an error that names the argument, also for a URL if `is_local`."""
    text = os.fspath(path) if isinstance(path, str | os.PathLike) else None
    if not isinstance(text, str):
        hint = " The table comes first, then run_dir." if hasattr(path, "columns") else ""
        raise UsageError(f"{name} must be a path, such as 'runs/first', not {type_of(path)}.{hint}")
    if not text.strip():
        raise UsageError(f"{name} is empty; pass the path of a file or folder, such as 'runs/first'.")
    problem = _path_problem(text)
    if problem is None and is_local and LIKE_URL.match(text):
        raise UsageError(f"{name} must be a path on this machine, not a URL.")  # it may hold a secret
    if problem is not None:
        raise UsageError(f"{name} {text!r} can't be used: {problem}")
    return text


def file_path(name: str, path: object) -> Path:
    """Return the path of a file or folder on this machine, with ~ expanded."""
    return Path(check_path(name, path)).expanduser()


def output_file(
    name: str, path: object, suffixes: Collection[str], kind: type[UsageError] = UsageError
) -> Path:
    """Return the path of a file to write, checked before the work that fills it; its folder must exist."""
    target = file_path(name, path)
    if target.suffix.lower() not in suffixes:
        raise kind(f"Can't write to {target}: expected a name that ends in {', '.join(suffixes)}.")
    if target.is_dir():
        raise kind(f"{target} is a folder. Pass the path of a file to write.")
    if not target.parent.is_dir():
        raise kind(f"No folder at {target.parent.absolute()} to write {target.name} to. Create it first.")
    return target


@contextmanager
def file_errors(kind: type[UsageError], path: Path, done: str) -> Iterator[None]:
    """Turn the system's error about a file that the user named into an error of a given class."""
    try:
        yield
    except OSError as error:
        raise kind(f"{error.filename or path} can't be {done}: {error.strerror or error}.") from error


def _path_problem(text: str) -> str | None:
    """Return why a path is impossible on any file system; None if it is possible."""
    try:
        path = Path(text).expanduser()
        parts = path.parts if LIKE_URL.match(text) else path.absolute().parts
        if any(len(os.fsencode(part)) > _FILE_NAME_BYTES_MAX for part in parts):
            return f"a name in it is longer than {_FILE_NAME_BYTES_MAX} bytes"
    except FileNotFoundError:
        return "the working directory is gone. Change to another one, for example with os.chdir."
    except UnicodeEncodeError:
        return "it contains half a character (a lone surrogate), or one that no file name has in this locale"
    except RuntimeError:
        return f"there is no user {text.partition('/')[0][1:]!r}"
    return "it contains a NUL or ends in a line break" if "\0" in text or text[-1] in "\r\n" else None
