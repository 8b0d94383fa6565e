"""`jobs.dreamo.run(...)`: the package's own functions, on the table at hand.

Nothing is written twice: each verb is the public function itself, bound to the table as a method is to its object, and
found when it is first used. So signatures and docstrings are those of the functions, and can't differ.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.abc import Loader, MetaPathFinder
from types import MethodType, ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec

    import pandas as pd


class Verb:
    """A public function whose first argument is a table, as a method of the table."""

    find: Callable[[str], Any]  # a public name of the package

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, accessor: Dreamo | None, owner: type | None = None) -> Any:
        function = Verb.find(self.name)
        return function if accessor is None else MethodType(function, accessor._frame)  # noqa: SLF001 - its own


class Dreamo:
    """What can be done with a table of jobs, and with results; see the functions of the same names.

    Of a table of jobs: `validate`, `plan`, `run`, `start`. Of results, or any rows of them: `gallery`, `contact_sheet`,
    `costs`, `latency`, `failures`, `diversity`, `rank`, `download`. Only `run` and `start` attempt anything, and both
    name the directory.
    """

    validate = Verb("validate")
    plan = Verb("plan")
    run = Verb("run")
    start = Verb("start")
    gallery = Verb("gallery")
    contact_sheet = Verb("contact_sheet")
    costs = Verb("costs")
    latency = Verb("latency")
    failures = Verb("failures")
    diversity = Verb("diversity")
    rank = Verb("rank")
    download = Verb("download")

    def __init__(self, frame: pd.DataFrame) -> None:
        self._frame = frame

    def __repr__(self) -> str:
        return f"<dreamo: {', '.join(name for name, verb in vars(Dreamo).items() if isinstance(verb, Verb))}>"


NAME: Final = "dreamo"
_PANDAS: Final = "pandas"


def register_when_pandas_is_there(find: Callable[[str], Any]) -> None:
    """Register the accessor now, or once pandas has been imported; `find` returns a public name of the package."""
    Verb.find = find
    if _PANDAS in sys.modules:
        register()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def register() -> None:
    """Register the accessor unless DataFrames already have an attribute of its name."""
    import pandas as pd

    if not hasattr(pd.DataFrame, NAME):
        pd.api.extensions.register_dataframe_accessor(NAME)(Dreamo)


class _Waiting(MetaPathFinder):
    """Finds pandas like the other finders, and registers the accessor once it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PANDAS:
            return None
        others = (finder.find_spec for finder in sys.meta_path if finder is not self)
        spec = next((found for find in others if (found := find(fullname, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            # Only on this object, and undone before it is used, so that nobody else sees a changed loader.
            spec.loader.exec_module = partial(self._load, spec.loader)  # type: ignore[method-assign]  # of this object alone
        return spec

    def _load(self, loader: Loader, module: ModuleType) -> None:
        del loader.exec_module  # deletes the instance's attribute, so that the class's applies again
        loader.exec_module(module)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        register()
