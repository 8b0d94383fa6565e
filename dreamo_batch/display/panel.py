"""The panel of a run in a notebook, and its static form: HTML and text that need no widgets."""

from __future__ import annotations

import functools
import threading
import weakref
from typing import TYPE_CHECKING, Any, Final, Protocol

from dreamo_batch.display.panel_view import view_of
from dreamo_batch.display.thumbnails import THUMBNAILS
from dreamo_batch.errors import UsageError
from dreamo_batch.frames import PALETTE
from dreamo_batch.frontend import can_show_widgets, is_in_marimo
from dreamo_batch.text import counted, templates

if TYPE_CHECKING:
    from collections.abc import Collection
    from decimal import Decimal

    from dreamo_batch.display.panel_widgets import Panel
    from dreamo_batch.engine.status import Status

_BAR_CHARACTERS: Final = 40
_EVERY_S: Final = 0.25
_SELDOM_S: Final = 5.0

# One panel for every display of the same run: showing it again adds a view, not another painter.
_displayed: dict[int, Panel] = {}


class Controlled(Protocol):
    """A run that a panel shows and controls; every method returns at once and may be called from any thread."""

    @property
    def status(self) -> Status:
        """The run at this moment."""
        ...

    @property
    def can_control(self) -> bool:
        """Whether this process works on the run; if not, it can only be watched."""
        ...

    def pause(self) -> None:
        """Submit nothing more until `resume`; tasks in flight continue."""
        ...

    def resume(self) -> None:
        """Continue submitting."""
        ...

    def stop(self) -> None:
        """Submit nothing more, and end once everything that was sent has been answered."""
        ...

    def retry(
        self, rows: Collection[Any] | None = None, classes: str | Collection[str] | None = None
    ) -> None:
        """Submit failed rows again in the background, each once."""
        ...

    def raise_budget(self, max_cost: float | str | Decimal) -> None:
        """Set a new cap in USD."""
        ...


def panel(batch: Controlled) -> Any:
    """Build a panel of a run: progress, money, errors, newest pictures, and buttons."""
    return _build(batch).box


def mimebundle(batch: Controlled) -> dict[str, Any]:
    """Return what a notebook displays of a run: the panel, and the same as static HTML and as text."""
    return _panel_of(batch).bundle() if can_show_widgets() else static_bundle(batch.status)


def show(batch: Controlled) -> None:
    """Display a run in the output of the current cell, and leave its last state there when it is over."""
    if can_show_widgets():
        _panel_of(batch).display()
    else:
        from IPython.display import display

        display(static_bundle(batch.status), raw=True)  # type: ignore[no-untyped-call]


def static_bundle(status: Status) -> dict[str, str]:
    """Return both static forms by MIME type."""
    return {"text/plain": status_text(status), "text/html": status_html(status)}


def status_html(status: Status) -> str:
    """Return a run at one moment as HTML that needs no scripts and no network."""
    view = view_of(status)
    thumbnails = THUMBNAILS.panel_jpegs(caption.path for caption in view.pictures)
    template = templates().get_template("panel.html.j2")
    return template.render(view=view, blocks=html_blocks(), thumbnails=thumbnails)


@functools.cache
def html_blocks() -> Any:
    """Return the blocks of a panel: functions of a view (or of a picture) that return HTML."""
    return (
        templates().get_template("panel_blocks.html.j2").make_module({"palette": PALETTE, "counted": counted})
    )


def status_text(status: Status) -> str:
    """Return a run at one moment as lines of text, harmless to a terminal."""
    view = view_of(status)
    bar = "".join(part.style.sign * round(part.share * _BAR_CHARACTERS) for part in view.segments)
    money = view.money
    amounts = [f"spent {money.spent}", f"reserved {money.reserved}" if money.reserved else ""]
    amounts += [f"cap {money.cap}", f"projected {money.projected}" if money.projected else "", money.warning]
    lines = [
        bar and f"[{bar[:_BAR_CHARACTERS]:{view.segments[-1].style.sign}<{_BAR_CHARACTERS}}]",
        view.counts,
        ", ".join(filter(None, amounts)),
        view.pace,
        view.detail,
        *view.problem.split("\n"),
        *(
            f"{line.error_class}, {counted(line.n_rows, 'row')}; for example row {line.row}: {line.message}"
            for line in view.errors
        ),
    ]
    return "\n  ".join([f"{view.title}: {view.progress}  {view.place}", *filter(None, lines)])


def start(panel: Panel) -> threading.Thread:
    """Paint a panel until it is closed or forgotten, in a thread that doesn't keep the process alive."""
    thread = threading.Thread(
        target=_paint, args=(weakref.ref(panel), panel.wake), name="dreamo-panel", daemon=True
    )
    weakref.finalize(panel, panel.wake.set).atexit = False
    thread.start()
    return thread


def _paint(panel_or_none: weakref.ref[Panel], wake: threading.Event) -> None:
    """Paint four times a second, and ever less often once the run is over, though a call may resume it."""
    wait_s = _EVERY_S
    while (panel := panel_or_none()) is not None and not panel.is_closed:
        wake.clear()
        wait_s = min(_SELDOM_S, 2 * wait_s) if panel.paint() else _EVERY_S
        del panel  # it may be forgotten while this thread waits
        if wake.wait(wait_s):
            wait_s = _EVERY_S
    if panel is not None:
        panel.close()


def _build(batch: Controlled) -> Panel:
    if is_in_marimo():
        raise UsageError("marimo shows no ipywidgets.")
    from dreamo_batch.display.panel_widgets import Panel

    built = Panel(batch)
    start(built)
    return built


def _panel_of(batch: Controlled) -> Panel:
    for key in [key for key, displayed in _displayed.items() if displayed.is_closed]:
        del _displayed[key]
    # A panel keeps its run, so no other one can have the same id meanwhile.
    return _displayed.get(id(batch)) or _displayed.setdefault(id(batch), _build(batch))
