"""The thread that paints a panel: the only one that writes to its widgets once they are built."""

from __future__ import annotations

import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from dreamo_batch.notebook.widget import Panel

_EVERY_S: Final = 0.25
_SELDOM_S: Final = 5.0


def start(panel: Panel) -> threading.Thread:
    """Paint a panel until it is closed or forgotten; the thread does not keep the process alive.

    Parameters
    ----------
    panel : Panel
        What is painted.

    Returns
    -------
    threading.Thread
        The painter, started.
    """
    thread = threading.Thread(
        target=_paint, args=(weakref.ref(panel), panel.wake), name="dreamo-panel", daemon=True
    )
    weakref.finalize(panel, panel.wake.set).atexit = False
    thread.start()
    return thread


def pause_s(n_times_over: int) -> float:
    """Say how long to wait: four times a second, and ever longer once there is nothing new to expect.

    A run that was over may go on, by a click, a call or another process, so the painter never quite stops looking.

    Examples
    --------
    >>> pause_s(0), pause_s(1), pause_s(3), pause_s(1000)
    (0.25, 0.5, 2.0, 5.0)
    """
    return min(_SELDOM_S, _EVERY_S * 2.0 ** min(n_times_over, 10))


def _paint(panel_or_none: weakref.ref[Panel], wake: threading.Event) -> None:
    n_times_over = 0
    while (panel := panel_or_none()) is not None and not panel.is_closed:
        wake.clear()
        n_times_over = n_times_over + 1 if panel.paint() else 0
        del panel  # it may be forgotten while this thread waits
        if wake.wait(pause_s(n_times_over)):
            n_times_over = 0
    if panel is not None:
        panel.close()
