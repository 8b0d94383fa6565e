"""Tables of image-to-image jobs against the Spark DreamO service, from pandas.

The flow: `sweep` makes a table (or bring your own DataFrame), `validate` checks every row of it, `plan` says what
would be bought and why, `run` buys it under a budget with a progress bar, saves the pictures and returns the table
back with URLs, costs and errors as columns. The same call again resumes. `load` reads the results any time,
`retry` submits chosen rows again, `resolve` settles a row whose attempt may or may not have been accepted. It never
pays twice without telling you. Every DataFrame has the same verbs: ``jobs.dreamo.run("runs/first")``.
"""

from __future__ import annotations

import sys
from typing import Any, Final

import lazy_loader

from dreamo_batch import accessor
from dreamo_batch.errors import interrupts_without_our_lines
from dreamo_batch.importing import uninterrupted

__version__: Final = "0.1.0"

# The names are listed in `__init__.pyi`; each is loaded when it is first used, so that importing the package is quick.
_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    """Load a public name when it is first used."""
    if name not in __all__:  # Python suggests similar names
        module = sys.modules[__name__]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}", name=name, obj=module)
    with interrupts_without_our_lines():
        return uninterrupted(_attribute, name)


accessor.register_when_pandas_is_there(__getattr__)
