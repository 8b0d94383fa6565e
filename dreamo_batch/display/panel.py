"""The panel of a run in a notebook, and its static form: HTML and text that need no widgets.

A click calls the run and returns; what goes wrong is shown, not raised.
"""

from __future__ import annotations

import functools
import math
import threading
import weakref
from decimal import ROUND_UP, Decimal
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final, Protocol

from dreamo_batch import columns
from dreamo_batch.appearance import ON_LIGHT, PALETTE, can_show_widgets, is_only_run
from dreamo_batch.display.grid import panel_jpeg
from dreamo_batch.errors import UsageError, logger_named
from dreamo_batch.money import EXACT, dollars, money, total
from dreamo_batch.parallel import is_in_marimo
from dreamo_batch.text import clock_time, counted, duration, fill_template, harmless, one_line, templates

if TYPE_CHECKING:
    from collections.abc import Callable

    from dreamo_batch.engine.status import Picture, Status
    from dreamo_batch.money import Amount

logger = logger_named(__name__)

VIEW_TYPE: Final = "application/vnd.jupyter.widget-view+json"
_N_PLACES: Final = 12
_N_NEW: Final = 3  # thumbnails per update, so that numbers never wait long for pictures
_ABOVE_BUTTONS: Final = ("heading", "progress", "money", "problem")
_BAR_CHARACTERS: Final = 40
_EVERY_S: Final = 0.25
_SELDOM_S: Final = 5.0

# One panel for all displays of a run: showing it again adds a view, not another thread.
_displayed: dict[int, Panel] = {}


class Controllable(Protocol):
    """What a panel shows and its buttons act on: a `Batch`, which can also pause, resume, stop and retry."""

    @property
    def status(self) -> Status: ...  # noqa: D102 - as of `Batch`
    @property
    def can_control(self) -> bool: ...  # noqa: D102 - as of `Batch`
    def raise_budget(self, max_cost: Amount) -> None: ...  # noqa: D102 - as of `Batch`


def panel(batch: Controllable) -> Any:
    """Build a panel of a run: progress, money, errors, newest pictures, and buttons."""
    return _build(batch).box


def mimebundle(batch: Controllable) -> dict[str, Any]:
    """Return what a notebook displays for a run: the panel, and the same as static HTML and text."""
    if can_show_widgets():
        return _panel_of(batch).bundle()
    return static_bundle(batch.status, is_ours=batch.can_control)


def show(batch: Controllable) -> None:
    """Display a run in the output of the current cell; its last state stays there."""
    if can_show_widgets():
        _panel_of(batch).display()
    else:
        from IPython.display import display

        display(static_bundle(batch.status, is_ours=batch.can_control), raw=True)  # type: ignore[no-untyped-call]


def static_bundle(status: Status, *, is_ours: bool) -> dict[str, str]:
    """Return both static forms by MIME type."""
    return {
        "text/plain": status_text(status, is_ours=is_ours),
        "text/html": status_html(status, is_ours=is_ours),
    }


def status_html(status: Status, *, is_ours: bool = True) -> str:
    """Return the state of a run as HTML without scripts and network."""
    view = view_of(status, can_control=is_ours)
    thumbnails = {picture.path: panel_jpeg(picture.path) for picture in view.pictures}
    return fill_template("panel.html.j2", view=view, blocks=html_blocks(), thumbnails=thumbnails)


@functools.cache
def html_blocks() -> Any:
    """Return the blocks of a panel: functions of a view (or a picture) that return HTML."""
    template = templates().get_template("panel_blocks.html.j2")
    return template.make_module(
        {"palette": PALETTE, "counted": counted, "dollars": dollars, "one_line": one_line}
    )


def status_text(status: Status, *, is_ours: bool = True) -> str:
    """Return the state of a run as lines of text, harmless to a terminal."""
    view = view_of(status, can_control=is_ours)
    bar = "".join(part.style.sign * round(part.share * _BAR_CHARACTERS) for part in view.segments)
    bar = bar and f"{bar[:_BAR_CHARACTERS]:{view.segments[-1].style.sign}<{_BAR_CHARACTERS}}"
    return fill_template("panel.txt.j2", view=view, bar=bar, counted=counted, one_line=one_line).rstrip()


def start(panel: Panel) -> threading.Thread:
    """Paint a panel in a daemon thread until it is closed or garbage collected."""
    thread = threading.Thread(
        target=_paint, args=(weakref.ref(panel), panel.wake), name="dreamo-panel", daemon=True
    )
    weakref.finalize(panel, panel.wake.set).atexit = False
    thread.start()
    return thread


def _paint(panel_or_none: weakref.ref[Panel], wake: threading.Event) -> None:
    """Paint four times a second, and less and less often once the run is over (it may be resumed)."""
    wait_s = _EVERY_S
    while (panel := panel_or_none()) is not None and not panel.is_closed:
        wake.clear()
        with panel.changing:
            is_whole = panel.is_closed or panel.paint()
        wait_s = min(_SELDOM_S, 2 * wait_s) if is_whole else _EVERY_S
        del panel  # it may be garbage collected while this thread waits
        if wake.wait(wait_s):
            wait_s = _EVERY_S
    if panel is not None:
        panel.close()


def _build(batch: Controllable) -> Panel:
    if is_in_marimo():
        raise UsageError("marimo shows no ipywidgets.")
    built = Panel(batch)
    start(built)
    return built


def _panel_of(batch: Controllable) -> Panel:
    for key in [key for key, displayed in _displayed.items() if displayed.is_closed]:
        del _displayed[key]
    # A panel references its run, so no other run can have the same id meanwhile.
    return _displayed.get(id(batch)) or _displayed.setdefault(id(batch), _build(batch))


class ButtonRow:
    """The buttons Pause, Resume, Stop and Retry failed, and a field for a new cap when one is needed."""

    def __init__(self, batch: Controllable, report: Callable[[str], None]) -> None:
        import ipywidgets

        self._batch = batch
        self._report = report
        self._under_way: set[str] = set()
        words = {"pause": "Pause", "resume": "Resume", "stop": "Stop", "retry": "Retry failed"}
        self._buttons = {name: self._button(caption, getattr(batch, name)) for name, caption in words.items()}
        self._cap = ipywidgets.Text(description="New cap, USD", style={"description_width": "initial"})
        self._raise = self._button("Raise cap", self._raise_cap)
        self._raise.tooltip = "Set a new cap on everything ever submitted in this directory."
        self._why_not = ipywidgets.Label()
        self.box = ipywidgets.Box([*self._buttons.values(), self._cap, self._raise, self._why_not])
        self.box.add_class("dreamo-buttons")

    def show(self, controls: SimpleNamespace) -> None:
        """Show which buttons can be clicked, and why the others can't."""
        for name, widget in self._buttons.items():
            button = controls.buttons[name]
            widget.description, widget.tooltip = button.words, button.tooltip
            widget.disabled = not button.is_enabled
        if controls.suggested_cap and self._cap.layout.display != "":
            self._cap.value = controls.suggested_cap  # but never overwrite what somebody is typing
        _reveal(self._cap, is_shown=bool(controls.suggested_cap))
        _reveal(self._raise, is_shown=bool(controls.suggested_cap))
        self._why_not.value = controls.why_not
        _reveal(self._why_not, is_shown=bool(controls.why_not))

    def _raise_cap(self) -> None:
        amount = money(self._cap.value)
        if amount is None:
            raise UsageError(f"{self._cap.value!r} is not an amount; expected USD, such as 7.50.")
        self._batch.raise_budget(amount)

    def _button(self, words: str, action: Callable[[], None]) -> Any:
        import ipywidgets

        button = ipywidgets.Button(description=words)
        button.on_click(lambda _: self._click(words, action))
        return button

    def _click(self, words: str, action: Callable[[], None]) -> None:
        """Act in another thread, because resuming may ask the service for its price first."""
        if words not in self._under_way:
            self._under_way.add(words)
            threading.Thread(target=self._act, args=(words, action), name="dreamo-click", daemon=True).start()

    def _act(self, words: str, action: Callable[[], None]) -> None:
        trouble = ""
        try:
            action()
        except Exception as error:  # nobody would see an exception raised in a callback
            logger.debug("%s", words, exc_info=True)
            trouble = f"{words}: {str(error) or type(error).__name__}"
        self._under_way.discard(words)
        self._report(trouble)


def _reveal(widget: Any, *, is_shown: bool) -> None:
    widget.layout.display = "" if is_shown else "none"


def _close(widget: Any) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


class PictureRow:
    """The newest pictures, in a row that wraps."""

    def __init__(self) -> None:
        import ipywidgets

        self.places = [ipywidgets.HTML() for _ in range(_N_PLACES)]
        self._taken: dict[Picture, Any] = {}
        self._jpegs: dict[Picture, bytes] = {}
        self._row = ipywidgets.Box(layout={"flex_flow": "row wrap", "overflow": "visible"})
        self._row.add_class("dreamo-pictures")
        heading = ipywidgets.HTML(html_blocks().newest())
        self.box = ipywidgets.VBox([heading, self._row], layout={"display": "none"})
        self.box.add_class("dreamo-block")

    def show(self, pictures: tuple[Picture, ...], *, n_new: int) -> bool:
        """Show pictures, newest first; return whether all have their thumbnails."""
        shown = tuple(dict.fromkeys(pictures))[:_N_PLACES]
        self._jpegs = {picture: self._jpegs[picture] for picture in shown if picture in self._jpegs}
        for picture in [picture for picture in shown if picture not in self._jpegs][:n_new]:
            self._jpegs[picture] = panel_jpeg(picture.path)
        # Pictures that stay keep their widgets, so that only new ones are sent.
        kept = {picture: self._taken[picture] for picture in shown if picture in self._taken}
        used = {place.model_id for place in kept.values()}
        free = iter([place for place in self.places if place.model_id not in used])
        self._taken = {picture: kept[picture] if picture in kept else next(free) for picture in shown}
        for picture, place in self._taken.items():
            place.value = html_blocks().picture(picture, self._jpegs.get(picture))
        self._row.children = tuple(self._taken.values())
        self.box.layout.display = None if shown else "none"
        return len(self._jpegs) == len(shown)


class Panel:
    """The widgets of one panel, and the outputs that show them."""

    def __init__(self, batch: Controllable) -> None:
        import ipywidgets

        self.batch = batch
        self.wake = threading.Event()
        # Widgets that one thread closes can't be painted, or closed, by another.
        self.changing = threading.Lock()
        self._trouble = ""
        self._outputs: list[Any] = []
        self._kept: dict[str, Any] | None = None
        self._is_only_run = is_only_run()
        self._blocks = {name: ipywidgets.HTML() for name in (*_ABOVE_BUTTONS, "trouble", "errors", "notices")}
        self._buttons = ButtonRow(batch, self._report)
        self._pictures = PictureRow()
        self.box = self._assemble()
        self.paint(n_new=0)  # the thread that asks for a panel doesn't wait for pictures

    @property
    def is_closed(self) -> bool:
        """Whether the widget was closed."""
        return self.box.comm is None

    def paint(self, *, n_new: int = _N_NEW) -> bool:
        """Show the current state, sending only changes; return whether the run is over and fully shown."""
        blocks = html_blocks()
        try:
            view = view_of(self.batch.status, can_control=self.batch.can_control)
        except Exception as error:  # noqa: BLE001 - the user must see it, and the next attempt may succeed
            self._show("trouble", blocks.warning_box(message(f"Can't read the run: {error!r}")))
            return False
        for name in (*_ABOVE_BUTTONS, "errors", "notices"):
            self._show(name, getattr(blocks, name)(view))
        self._show("trouble", blocks.warning_box(self._trouble))
        self._buttons.show(view.controls)
        is_whole = self._pictures.show(view.pictures, n_new=n_new)
        self._keep(view if is_whole and view.is_over else None)
        return is_whole and view.is_over

    def display(self) -> None:
        """Show the panel in the output of the current cell."""
        from IPython.display import display

        output = display(self.bundle(), raw=True, display_id=True)  # type: ignore[no-untyped-call]
        if output is not None:
            self._outputs.append(output)

    def bundle(self, **_: Any) -> dict[str, Any]:
        """Return the widget together with the static form of the same moment, or that alone where nobody can click."""
        status, is_ours = self.batch.status, self.batch.can_control
        controls = view_of(status, can_control=is_ours).controls
        bundle = static_bundle(status, is_ours=is_ours)
        if self._is_only_run or self.is_closed or (status.is_over and not controls.has_any):
            return bundle
        return {**bundle, VIEW_TYPE: {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}}

    def close(self) -> None:
        """Close every widget."""
        with self.changing:
            for widget in (self.box, *self._pictures.places):
                _close(widget)

    def _assemble(self) -> Any:
        import ipywidgets

        style = ipywidgets.HTML(html_blocks().style(), layout={"display": "none"})
        above = [self._blocks[name] for name in (*_ABOVE_BUTTONS, "trouble")]
        below = [self._blocks["errors"], self._pictures.box, self._blocks["notices"]]
        box = ipywidgets.VBox([style, *above, self._buttons.box, *below])
        box.add_class("dreamo-panel")
        wake = self.wake
        box.observe(lambda _: wake.set(), names="comm")
        box._repr_mimebundle_ = self.bundle
        box._ipython_display_ = self.display
        return box

    def _show(self, name: str, html: str) -> None:
        html = html.strip()
        self._blocks[name].value = html
        _reveal(self._blocks[name], is_shown=bool(html))

    def _report(self, trouble: str) -> None:
        """Store the outcome of a click, from any thread, for the painter to show."""
        self._trouble = message(trouble)
        self.wake.set()

    def _keep(self, view: SimpleNamespace | None) -> None:
        """Replace the outputs by the last state, for a saved notebook; after a resume, show the buttons again."""
        last = None if view is None else {**vars(view), "at": ""}
        is_gone = self._kept is not None and not self._kept["controls"].has_any
        if last != self._kept and (last is not None or is_gone):
            for output in self._outputs:
                output.update(self.bundle(), raw=True)
        self._kept = last


# What a panel shows, independent of widgets: texts, lengths of bars, and which buttons can be clicked.

_MESSAGE_CHARACTERS: Final = 300
_PROBLEM_CHARACTERS: Final = 2000
_MINUTE_S: Final = 60
_RATES: Final = ((1, "s"), (_MINUTE_S, "min"), (3600, "h"))
_STEP_S: Final = 5
_TEN: Final = 10

# In the order of the bar: settled, in progress, to come.
_ORDER: Final = (*columns.SETTLED, *reversed(columns.UNSETTLED))
_COLOURS: Final = {
    "running": PALETTE[columns.IN_PROGRESS].colour,
    "finished": PALETTE[columns.COMPLETED].colour,
}
_ELSEWHERE: Final = "Another process is working on this run. You can watch it here; pause or stop it there."
_NOT_RUNNING: Final = "The run is not running."


def view_of(status: Status, *, can_control: bool = True) -> SimpleNamespace:
    """Return the data for the templates; shares are fractions of a bar's length, 0 to 1."""
    segments = tuple(
        SimpleNamespace(status=name, style=PALETTE[name], n_rows=n_rows, share=n_rows / status.n_rows)
        for name in _ORDER
        if (n_rows := status.by_status.get(name, 0))
    )
    return SimpleNamespace(
        title=status.phase.capitalize(),
        colour=PALETTE[columns.FAILED].colour
        if status.problem
        else _COLOURS.get(status.phase, ON_LIGHT.open),
        place=one_line(status.run_dir, _PROBLEM_CHARACTERS),
        progress=_progress(status),
        pace=_pace(status, is_ours=can_control),
        detail=_detail(status),
        counts=", ".join(f"{part.n_rows:,} {part.style.word}" for part in segments),
        segments=segments,
        money=_money(status),
        errors=status.errors,
        pictures=tuple(status.newest),
        notices=tuple(one_line(notice, _MESSAGE_CHARACTERS) for notice in reversed(status.notices)),
        problem=message(status.problem or ""),
        controls=_controls(status, can_control=can_control),
        is_over=status.is_over,
        at=f"{status.at:%Y-%m-%d %H:%M:%S} UTC",
    )


def message(words: str) -> str:
    """Return a message of several lines without harmful characters."""
    return "\n".join(harmless(line.rstrip()) for line in words[:_PROBLEM_CHARACTERS].strip().split("\n"))


def rate(rows_per_s: float) -> str:
    """Return a rate per second, minute or hour: the first of these that is at least one."""
    per_s, unit = next((pair for pair in _RATES if rows_per_s * pair[0] >= 1), _RATES[-1])
    number = rows_per_s * per_s
    shown = f"{number:.1f}".removesuffix(".0") if number < _TEN else f"{number:,.0f}"
    return f"{shown} {'row' if shown == '1' else 'rows'}/{unit}"


def about(seconds: float) -> str:
    """Return an estimated duration, no more precise than the estimate."""
    step_s = _STEP_S if seconds < _MINUTE_S else _MINUTE_S
    return duration(math.ceil(seconds / step_s) * step_s)


def _progress(status: Status) -> str:
    if not status.n_rows:
        return "no rows"
    percent = 100 * status.n_settled // status.n_rows
    return f"{status.n_settled:,} of {counted(status.n_rows, 'row')} settled ({percent} %)"


def _pace(status: Status, *, is_ours: bool) -> str:
    """Return elapsed time and speed; the elapsed time of another process is unknown."""
    parts = []
    if is_ours and (status.elapsed_s or not status.is_over):
        time = duration(status.elapsed_s)
        parts.append(f"took {time}" if status.is_over else f"{time} so far")
    if status.n_in_flight and not status.is_over:
        parts.append(f"{status.n_in_flight:,} in flight")
    if status.rows_per_s and status.phase == "running":
        parts.append(rate(status.rows_per_s))
    if status.eta_s and status.phase == "running":
        parts.append(f"about {about(status.eta_s)} left")
    if status.n_refused:
        parts.append(f"{status.n_refused:,} refused with 429 (waited {duration(status.waited_s)})")
    return " · ".join(parts)


def _detail(status: Status) -> str:
    n_left = status.n_rows - status.n_settled
    if status.outage and status.phase == "running":
        return one_line(status.outage, _MESSAGE_CHARACTERS)
    if status.phase == "paused":
        tasks = f" Waiting for {counted(status.n_in_flight, 'submitted task')}." if status.n_in_flight else ""
        at = "" if status.begins_at is None else f" or it is {clock_time(status.begins_at.timestamp())}"
        return f"Nothing more is submitted until you resume{at}.{tasks}"
    if status.phase == "stopping":
        return "Nothing more is submitted. Waiting for requests that were already sent."
    if status.phase == "idle":
        return "No process is working on this run. Make the same call again to resume it."
    if status.phase == "stopped" and status.problem is None and n_left:
        left = f"{counted(n_left, 'row')} not settled."
        return f"{left} Resume, or make the same call again, to continue; nothing is paid twice."
    return ""


def _money(status: Status) -> SimpleNamespace:
    """Return amounts as text, and shares of a bar that ends at the cap, or else at the highest projection."""
    cap = status.max_cost_usd  # settled rows cost nothing more
    projected = None if status.n_settled == status.n_rows else status.projected_usd
    low, likely, high = projected or [total((status.spent_usd, status.reserved_usd))] * 3
    end = max(high, total((status.spent_usd, status.reserved_usd))) if cap is None else cap

    def share(amount: Decimal) -> float:
        return float(min(Decimal(1), EXACT.divide(amount, end))) if end else 0.0

    warning = ""
    if projected and cap is not None and high > cap:
        warning = "the cap will not last" if low > cap else "the cap may not last"
    between = "" if low == high else f" ({dollars(low)} to {dollars(high)})"
    return SimpleNamespace(
        spent=dollars(status.spent_usd),
        reserved=dollars(status.reserved_usd) if status.reserved_usd else "",
        cap="none" if cap is None else dollars(cap),
        projected=f"{dollars(likely)}{between}" if projected else "",
        warning=warning,
        has_bar=bool(end),
        spent_share=share(status.spent_usd),
        reserved_share=min(1 - share(status.spent_usd), share(status.reserved_usd)),
        projected_shares=(share(low), share(likely), share(high)) if projected else None,
    )


def _controls(status: Status, *, can_control: bool) -> SimpleNamespace:
    """Return all buttons; `suggested_cap` is empty if no new cap is needed."""
    phase, n_failed = status.phase, status.by_status.get(columns.FAILED, 0)
    resumes = "Continue with the rows that are not settled. Nothing is paid twice."
    elsewhere = "" if can_control else _ELSEWHERE

    def button(words: str, tooltip: str, why_not: str) -> SimpleNamespace:
        why_not = elsewhere or why_not  # empty if it can be clicked
        return SimpleNamespace(words=words, is_enabled=not why_not, tooltip=why_not or tooltip)

    buttons = {
        "pause": button(
            "Pause",
            "Submit nothing more for now. Submitted tasks continue and their pictures are saved.",
            {"running": "", "paused": "Already paused."}.get(phase, _NOT_RUNNING),
        ),
        "resume": button(
            "Resume",
            "Continue submitting." if phase == "paused" else resumes,
            {"paused": "", "stopped": "", "running": "The run is running."}.get(phase, "Nothing to resume."),
        ),
        "stop": button(
            "Stop",
            "Submit nothing more and end the run. What was submitted is recorded; Resume continues.",
            {"running": "", "paused": "", "stopping": "Already stopping."}.get(phase, _NOT_RUNNING),
        ),
        "retry": button(
            f"Retry failed ({n_failed:,})" if n_failed else "Retry failed",
            f"Submit {counted(n_failed, 'failed row')} again, each once. This may cost money again.",
            "No row has failed." if not n_failed else "The run is stopping." if phase == "stopping" else "",
        ),
    }
    return SimpleNamespace(
        buttons=buttons,
        has_any=any(button.is_enabled for button in buttons.values()),
        suggested_cap=_suggested_cap(status) if can_control else "",
        why_not=elsewhere,
    )


def _suggested_cap(status: Status) -> str:
    """Return a sufficient cap in whole cents if the present one stopped the run or may do so."""
    cap = status.max_cost_usd
    if cap is None:
        return ""
    spent = total((status.spent_usd, status.reserved_usd))
    expected = status.projected_usd[2] if status.projected_usd else spent
    falls_short = status.n_settled < status.n_rows and expected > cap
    if not falls_short and not (status.phase == "stopped" and status.is_cap_reached):
        return ""
    is_known = status.projected_usd is not None and expected > cap
    enough = expected if is_known else EXACT.multiply(Decimal("1.5"), cap) or Decimal(1)
    return f"{enough.quantize(Decimal('0.01'), ROUND_UP, EXACT):f}"
