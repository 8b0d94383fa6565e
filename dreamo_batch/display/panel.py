"""What a panel needs of a run in the background: its state, and a hand on it."""

from __future__ import annotations

import sys
import threading
import weakref
from html import escape
from typing import TYPE_CHECKING, Any, Final, Protocol

from dreamo_batch import columns
from dreamo_batch.display import markup
from dreamo_batch.display.markup import SHEET
from dreamo_batch.display.panel_view import view_of
from dreamo_batch.display.thumbnails import SHARED
from dreamo_batch.text import NO_FORMULAS

if TYPE_CHECKING:
    from collections.abc import Collection
    from decimal import Decimal

    from dreamo_batch.display.panel_view import View
    from dreamo_batch.display.widgets import Panel
    from dreamo_batch.engine.status import Status


class Controlled(Protocol):
    """A run that is shown and held; every method returns at once and may be called from any thread."""

    @property
    def status(self) -> Status:
        """The run at this moment; read from any thread, four times a second."""
        ...

    @property
    def can_control(self) -> bool:
        """Whether this process works on the run; False: another one does, which can only be watched."""
        ...

    def pause(self) -> None:
        """Send nothing more until `resume`; what is in flight goes on."""
        ...

    def resume(self) -> None:
        """Go on."""
        ...

    def stop(self) -> None:
        """Send nothing more, and end once what was sent is answered."""
        ...

    def retry(
        self, rows: Collection[Any] | None = None, classes: str | Collection[str] | None = None
    ) -> None:
        """Attempt failed rows again in the background, each once."""
        ...

    def raise_budget(self, max_cost: float | str | Decimal) -> None:
        """Set a new cap in USD."""
        ...


_BAR_CHARACTERS: Final = 40
_SETTLED: Final = {columns.COMPLETED: "#", columns.FAILED: "x", columns.AMBIGUOUS: "?", columns.INVALID: "-"}


def status_html(status: Status) -> str:
    """Write a run at one moment as HTML that needs nothing else: no scripts, no network."""
    view = view_of(status)
    thumbnails = SHARED.of(caption.path for caption in view.pictures)
    shown = [markup.picture(caption, thumbnails.get(caption.path)) for caption in view.pictures]
    blocks = [markup.heading(view), markup.progress(view), markup.money(view), markup.problem(view)]
    blocks += [markup.errors(view), markup.gallery(shown), markup.notices(view)]
    as_of = f'<div class="dreamo-faint" style="font-size: 11px">as of {escape(view.at)}</div>'
    inner = "".join(filter(None, (*blocks, as_of)))
    return f'<div class="dreamo-panel dreamo-static {NO_FORMULAS}"><style>{SHEET}</style>{inner}</div>'


def static_bundle(status: Status) -> dict[str, str]:
    """Give both forms by MIME type."""
    return {"text/plain": status_text(status), "text/html": status_html(status)}


def status_text(status: Status) -> str:
    """Write a run at one moment as lines of text, harmless to a terminal."""
    view = view_of(status)
    lines = [
        _text_bar(view),
        ", ".join(f"{part.n_rows:,} {part.label}" for part in view.segments),
        _money(view),
        view.pace,
        view.detail,
        *view.problem.split("\n"),
        *(f"{line.name}, {line.count}; for example row {line.row}: {line.message}" for line in view.errors),
    ]
    head = f"{view.title}: {view.progress}  {view.place}"
    return "\n".join([head, *(f"  {line}" for line in lines if line)])


def _text_bar(view: View) -> str:
    drawn = "".join(
        _SETTLED.get(part.name, "") * round(part.share * _BAR_CHARACTERS) for part in view.segments
    )
    return f"[{drawn[:_BAR_CHARACTERS]:.<{_BAR_CHARACTERS}}]" if view.segments else ""


def _money(view: View) -> str:
    money = view.money
    parts = [f"spent {money.spent}", f"reserved {money.reserved}" if money.reserved else ""]
    parts += [f"cap {money.cap}", f"projected {money.projected}" if money.projected else "", money.warning]
    return ", ".join(filter(None, parts))


_EVERY_S: Final = 0.25
_SELDOM_S: Final = 5.0


def start(panel: Panel) -> threading.Thread:
    """Paint a panel until it is closed or forgotten; the thread does not keep the process alive."""
    thread = threading.Thread(
        target=_paint, args=(weakref.ref(panel), panel.wake), name="dreamo-panel", daemon=True
    )
    weakref.finalize(panel, panel.wake.set).atexit = False
    thread.start()
    return thread


def pause_s(n_times_over: int) -> float:
    """Say how long to wait: four times a second, and ever longer once there is nothing new to expect.

    A run that was over may go on, by a click, a call or another process, so the painter never quite stops looking.
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


# One panel for every display of the same run: showing it again adds a view, not another painter.
_displayed: dict[int, Panel] = {}


def panel(batch: Controlled) -> Any:
    """Build a panel of a run: progress, money, errors, newest pictures, and buttons."""
    return _build(batch).box


def mimebundle(batch: Controlled) -> dict[str, Any]:
    """Give what a notebook displays of a run: the panel, and the same as static HTML and as text."""
    return _panel_of(batch).bundle() if can_show_widgets() else static_bundle(batch.status)


def show(batch: Controlled) -> None:
    """Display a run in the output of the cell that runs now, and leave its last state there when it is over."""
    if can_show_widgets():
        _panel_of(batch).display()
    else:
        from IPython.display import display

        display(static_bundle(batch.status), raw=True)  # type: ignore[no-untyped-call]


def can_show_widgets() -> bool:
    """Whether there is a kernel with a front end, and ipywidgets."""
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

    from dreamo_batch.display.widgets import Panel

    built = Panel(batch)
    start(built)
    return built


def _panel_of(batch: Controlled) -> Panel:
    for key in [key for key, displayed in _displayed.items() if displayed.is_closed]:
        del _displayed[key]
    # A panel keeps its run, so no other one can have the same id meanwhile.
    return _displayed.get(id(batch)) or _displayed.setdefault(id(batch), _build(batch))
