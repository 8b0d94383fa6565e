"""What shows the output: a terminal, a notebook that a person works in, one that is only run, or marimo."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from dreamo_batch.errors import UsageError
from dreamo_batch.importing import load_module

if TYPE_CHECKING:
    from collections.abc import Callable


def is_watched() -> bool:
    """Whether a person can see a bar move."""
    try:
        return is_in_notebook() or is_in_marimo() or sys.stderr.isatty()
    except Exception:  # noqa: BLE001 - closed, missing, or something else that is no stream
        return False


def is_in_notebook() -> bool:
    """Whether tqdm draws in a notebook."""
    load_module("tqdm.auto")  # it loads the next without the warning that notebooks would show
    from tqdm.autonotebook import tqdm as chosen
    from tqdm.std import tqdm as of_text

    return chosen is not of_text


def is_in_marimo() -> bool:
    """Whether this thread works on a cell of marimo, which shows anywidgets, but neither ipywidgets nor tqdm's bars."""
    marimo = sys.modules.get("marimo")
    return marimo is not None and bool(marimo.running_in_notebook())


def marimo_bar(n: int, what: str, *, remove_on_exit: bool) -> Any:
    """Return marimo's own bar; as a context it is in the output of the cell."""
    import marimo

    return marimo.status.progress_bar(total=n, title=what, remove_on_exit=remove_on_exit)


def can_show_widgets() -> bool:
    """Whether there is a kernel with a front end, and ipywidgets."""
    if _kernel() is None:
        return False
    try:
        import ipywidgets  # noqa: F401 - whether it is installed
    except ImportError:
        return False
    return True


def beside_widget(static: dict[str, Any], widget: Callable[[], Any]) -> Any:
    """Return what a notebook displays of an anywidget: the live form beside the static one, or that one alone.

    The metadata of the live form tells Colab where to find the code of widgets.
    """
    if is_only_run():
        return static
    try:
        live = widget()._repr_mimebundle_()
    except UsageError:  # anywidget is not installed
        return static
    data, metadata = live if isinstance(live, tuple) else (live or {}, {})
    bundle = {**data, **static}
    return (bundle, metadata) if metadata else bundle


def is_only_run() -> bool:
    """Whether a program runs this cell, as nbconvert and papermill do: who sees its output then has no kernel.

    Such a program takes no input, and says so with each cell. Voila takes none either, but shows widgets.
    """
    message: dict[str, Any] = getattr(_kernel(), "get_parent", dict)()
    asked = message.get("content", {})
    return asked.get("allow_stdin") is False and "VOILA_REQUEST_URL" not in os.environ


def _kernel() -> Any:
    if "IPython" not in sys.modules:
        return None
    from IPython import get_ipython

    return getattr(get_ipython(), "kernel", None)
