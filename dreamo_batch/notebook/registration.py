"""Give DataFrames their `dreamo` as soon as there are any, without loading pandas.

pandas takes a hundred times as long to import as this package. Where it is loaded already, the accessor is registered
at once; else a finder waits at the head of `sys.meta_path` for the import of pandas, whoever asks for it, and takes
itself away again. So `import dreamo_batch` stays light, and the order of imports does not matter.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib.abc import MetaPathFinder
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

NAME: Final = "dreamo"
_PANDAS: Final = "pandas"


def register_when_pandas_is_there() -> None:
    """Register the accessor now, or once pandas has been imported."""
    if _PANDAS in sys.modules:
        register()
    elif not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting())


def register() -> None:
    """Register the accessor, unless DataFrames have something of its name already.

    Examples
    --------
    >>> import pandas as pd
    >>> register()
    >>> pd.DataFrame().dreamo.validate.__name__
    'validate'
    """
    import pandas as pd

    from dreamo_batch.notebook.accessor import Dreamo

    if not hasattr(pd.DataFrame, NAME):
        pd.api.extensions.register_dataframe_accessor(NAME)(Dreamo)


class _Waiting(MetaPathFinder):
    """Finds pandas as the other finders do, and registers once it has been loaded."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _PANDAS:
            return None
        others = (finder.find_spec for finder in sys.meta_path if finder is not self)
        spec = next((found for find in others if (found := find(fullname, path, target)) is not None), None)
        if spec is not None and spec.loader is not None:
            # On this one object, and undone before it is used: to everybody else the loader is what it always was.
            spec.loader.exec_module = partial(self._load, spec.loader)  # type: ignore[method-assign]
        return spec

    def _load(self, loader: Loader, module: ModuleType) -> None:
        del loader.exec_module  # the instance's own, so that its class's is there again
        loader.exec_module(module)
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        register()
