"""`jobs.dreamo.run(...)`: the package's own functions, on the table at hand.

Nothing is written twice: each verb is the public function itself, bound to the table as a method is to its object, and
found when it is first used. So signatures and docstrings are those of the functions, and can't differ.
"""

from __future__ import annotations

import importlib
from types import MethodType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

_PACKAGE: Final = __name__.partition(".")[0]


class Verb:
    """A public function that takes a table first, as a method of the table.

    Examples
    --------
    >>> Verb("plan").__get__(None).__name__
    'plan'
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, accessor: Dreamo | None, owner: type | None = None) -> Any:
        function = getattr(importlib.import_module(_PACKAGE), self.name)
        return function if accessor is None else MethodType(function, accessor._frame)  # noqa: SLF001 - its own


class Dreamo:
    """What can be done with a table of jobs, and with results; see the functions of the same names.

    Of a table of jobs: `validate`, `plan`, `run`, `start`. Of results, or any rows of them: `gallery`, `contact_sheet`,
    `costs`, `latency`, `failures`, `diversity`, `rank`, `download`. Only `run` and `start` order anything, and both
    name the directory.

    Examples
    --------
    >>> import dreamo_batch as dreamo
    >>> jobs = dreamo.sweep(image="data/mascot.png", prompt="on a beach", seed=[1, 1])
    >>> jobs.dreamo.plan(unit_cost="0.03")["action"].tolist()
    ['new', 'duplicate']
    >>> jobs.dreamo
    <dreamo: validate, plan, run, start, gallery, ..., download>
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
