"""The panel of a run: what `Batch.panel()` gives, and what a notebook shows of a `Batch`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from dreamo_batch.notebook.static import static_bundle

if TYPE_CHECKING:
    from dreamo_batch.notebook.control import Controlled
    from dreamo_batch.notebook.widget import Panel

# One panel for every display of the same run: showing it again adds a view, not another painter.
_displayed: dict[int, Panel] = {}


def panel(batch: Controlled) -> Any:
    """Build a panel of a run: progress, money, errors, newest pictures, and buttons.

    Parameters
    ----------
    batch : Controlled
        The run.

    Returns
    -------
    ipywidgets.VBox
        To be displayed, alone or within other widgets; painted until it is closed. Several of one run are all right.
    """
    return _build(batch).box


def mimebundle(batch: Controlled) -> dict[str, Any]:
    """Give what a notebook displays of a run: the panel, and the same as static HTML and as text.

    Parameters
    ----------
    batch : Controlled
        The run.

    Returns
    -------
    dict of str to Any
        By MIME type; without the widget where there can't be one, as in plain IPython.
    """
    return _panel_of(batch).bundle() if can_show_widgets() else static_bundle(batch.status)


def show(batch: Controlled) -> None:
    """Display a run in the output of the cell that runs now, and leave its last state there when it is over.

    Parameters
    ----------
    batch : Controlled
        The run.
    """
    if can_show_widgets():
        _panel_of(batch).display()
    else:
        from IPython.display import display

        display(static_bundle(batch.status), raw=True)  # type: ignore[no-untyped-call]


def can_show_widgets() -> bool:
    """Whether there is a kernel with a front end, and ipywidgets.

    Examples
    --------
    >>> can_show_widgets()
    False
    """
    if "IPython" not in sys.modules:
        return False
    from IPython import get_ipython

    if getattr(get_ipython(), "kernel", None) is None:
        return False
    try:
        import ipywidgets  # noqa: F401
    except ImportError:
        return False
    return True


def _build(batch: Controlled) -> Panel:
    from dreamo_batch.notebook import painter
    from dreamo_batch.notebook.widget import Panel

    built = Panel(batch)
    painter.start(built)
    return built


def _panel_of(batch: Controlled) -> Panel:
    for key in [key for key, displayed in _displayed.items() if displayed.is_closed]:
        del _displayed[key]
    # A panel keeps its run, so no other one can have the same id meanwhile.
    return _displayed.get(id(batch)) or _displayed.setdefault(id(batch), _build(batch))
