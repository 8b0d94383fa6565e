"""The panel as a widget, over a fake run: what it shows, what clicks do, and when it is painted."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from decimal import Decimal
from pathlib import Path

import IPython
import pytest

from dreamo_batch.display import panel as panels
from dreamo_batch.display.panel import VIEW_TYPE, Panel, _displayed, mimebundle, show, start
from dreamo_batch.engine.status import Picture
from tests.fakes import small_run
from tests.flows import PATIENCE_S
from tests.pictures import encoded, plain

SOON_S = 20


class FakeBatch:
    """A run in the state that a test sets, which records the calls made to it."""

    def __init__(self, **changes):
        self.state = small_run(**changes)
        self.can_control = True
        self.calls = queue.Queue()
        self.error = None

    @property
    def status(self):
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def pause(self):
        self._called("pause")

    def resume(self):
        self._called("resume")

    def stop(self):
        self._called("stop")

    def retry(self, rows=None, classes=None):
        self._called("retry", rows, classes)

    def raise_budget(self, max_cost):
        self._called("raise_budget", max_cost)

    def _called(self, *call):
        self.calls.put(call)
        if self.error is not None:
            raise self.error


class FakeShell:
    """A shell that has a kernel."""

    kernel = object()


@pytest.fixture
def batch():
    return FakeBatch()


@pytest.fixture
def panel(batch):
    made = Panel(batch)
    yield made
    made.close()


@pytest.fixture
def in_kernel(monkeypatch):
    monkeypatch.setattr(IPython, "get_ipython", FakeShell)
    yield
    for shown in _displayed.values():
        shown.close()
    _displayed.clear()


@pytest.fixture
def outputs(monkeypatch):
    """Collect what is displayed, and every later form of it."""
    shown = []

    class Output:
        def update(self, bundle, *, raw):
            assert raw
            shown.append(bundle)

    def display(bundle, *, raw, display_id=None):
        shown.append(bundle)
        return Output() if display_id else None

    monkeypatch.setattr("IPython.display.display", display)
    return shown


def widgets(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets(child)


def button(panel, words):
    return next(w for w in widgets(panel.box) if getattr(w, "description", "").startswith(words))


def is_shown(widget):
    return widget.layout.display != "none"


def text(panel):
    return " ".join(
        w.value for w in widgets(panel.box) if isinstance(getattr(w, "value", None), str) and is_shown(w)
    )


def sent(panel):
    """Record every trait that is sent from now on."""
    changes = []
    for widget in {*widgets(panel.box), *panel._pictures.places}:
        widget.observe(lambda change: changes.append(change["name"]))
        widget.layout.observe(lambda change: changes.append(change["name"]))
    return changes


def test_a_panel_shows_the_run(panel):
    """It is there at once, under the class that pages find it by."""
    assert "dreamo-panel" in panel.box._dom_classes
    assert "3 of 4 rows settled" in text(panel)
    assert "$0.12 ($0.11 to $0.13)" in text(panel)
    assert button(panel, "Retry failed").description == "Retry failed (1)"


@pytest.mark.parametrize(
    ("words", "call"), [("Pause", ("pause",)), ("Stop", ("stop",)), ("Retry failed", ("retry", None, None))]
)
def test_a_click_calls_the_run(batch, panel, words, call):
    """A button calls its method and nothing else."""
    button(panel, words).click()
    assert batch.calls.get(timeout=SOON_S) == call
    assert panel.wake.wait(SOON_S)
    assert batch.calls.empty()


def test_buttons_follow_the_phase(batch, panel):
    """A paused run can be resumed and not paused again; of somebody else's nothing can be clicked."""
    batch.state = small_run(phase="paused")
    panel.paint()
    assert (button(panel, "Pause").disabled, button(panel, "Resume").disabled) == (True, False)
    button(panel, "Resume").click()
    assert batch.calls.get(timeout=SOON_S) == ("resume",)
    batch.can_control = False
    panel.paint()
    assert all(button(panel, words).disabled for words in ("Pause", "Resume", "Stop", "Retry failed"))
    assert "Another process" in text(panel)


def test_what_a_click_raises_is_shown(batch, panel):
    """It is escaped, stays until the next click succeeds, and does not reach the kernel's log."""
    batch.error = ValueError("<b>locked</b>")
    button(panel, "Retry failed").click()
    assert panel.wake.wait(SOON_S)
    panel.paint()
    assert "Retry failed: &lt;b&gt;locked&lt;/b&gt;" in text(panel)
    batch.error = None
    panel.wake.clear()
    button(panel, "Retry failed").click()
    assert panel.wake.wait(SOON_S)
    panel.paint()
    assert "locked" not in text(panel)


def test_an_error_without_words_is_shown_by_its_name(batch, panel):
    """There is always something to read."""
    batch.error = RuntimeError()
    button(panel, "Stop").click()
    assert panel.wake.wait(SOON_S)
    panel.paint()
    assert "Stop: RuntimeError" in text(panel)


def test_a_second_click_waits_for_the_first(batch, monkeypatch):
    """What takes a while is not begun twice."""
    gate, began = queue.Queue(), queue.Queue()
    monkeypatch.setattr(batch, "stop", lambda: (began.put("stop"), gate.get(timeout=SOON_S)), raising=False)
    panel = Panel(batch)
    stop = button(panel, "Stop")
    stop.click()
    began.get(timeout=SOON_S)
    stop.click()
    gate.put(None)
    assert panel.wake.wait(SOON_S)
    assert began.empty()
    panel.close()


def test_a_cap_can_be_raised_where_it_falls_short(batch, panel):
    """The field begins with a cap that would last, and what is typed is sent as an exact amount."""
    field = button(panel, "New cap")
    assert not is_shown(field)
    batch.state = small_run(max_cost_usd=Decimal("0.1"))
    panel.paint()
    assert (is_shown(field), field.value) == (True, "0.13")
    field.value = " 7.50 "
    panel.paint()
    assert field.value == " 7.50 ", "what is being typed is not written over"
    button(panel, "Raise cap").click()
    assert batch.calls.get(timeout=SOON_S) == ("raise_budget", Decimal("7.50"))


@pytest.mark.parametrize("typed", ["", "much", "-1", "inf"])
def test_what_is_no_amount_does_not_reach_the_run(batch, panel, typed):
    """No cap at all is never set by a slip of the finger."""
    batch.state = small_run(max_cost_usd=Decimal("0.1"))
    panel.paint()
    button(panel, "New cap").value = typed
    button(panel, "Raise cap").click()
    assert panel.wake.wait(SOON_S)
    panel.paint()
    assert "is not an amount" in text(panel)
    assert batch.calls.empty()


def test_what_has_not_changed_is_not_sent(batch, panel):
    """A look at the same state changes no trait; another rate changes one."""
    panel.paint()
    changes = sent(panel)
    panel.paint()
    assert changes == []
    batch.state = small_run(rows_per_s=0.25)
    panel.paint()
    assert changes == ["value"]


def test_only_new_pictures_are_sent(batch, panel, tmp_path):
    """Pictures that stay are not sent again; the newest comes first."""
    pictures = []
    for number in range(14):
        (tmp_path / f"{number}.png").write_bytes(encoded(plain(32, 32, colour=(number, 0, 0))))
        pictures.insert(0, Picture(number, f"job{number}", "p", 1, tmp_path / f"{number}.png", None))
    batch.state = small_run(newest=tuple(pictures[1:13]))
    for _ in range(5):
        panel.paint()
    changes = sent(panel)
    batch.state = small_run(newest=tuple(pictures[:12]))
    panel.paint()
    assert sorted(changes) == ["children", "value"]
    rows = [widget.value for widget in widgets(panel.box) if "<img" in getattr(widget, "value", "")]
    assert [f"row {number}<" in html for number, html in zip(range(13, 1, -1), rows, strict=True)] == [
        True
    ] * 12
    assert all("data:image/jpeg" in html for html in rows)


def test_numbers_do_not_wait_for_pictures(batch, tmp_path):
    """Whoever asks for a panel gets it before any thumbnail; the end is not said before all are there."""
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(encoded(plain(32, 32)))
    shown = tuple(Picture(n, f"j{n}", "p", 1, tmp_path / f"{n}.png", None) for n in range(5))
    batch.state = small_run(phase="finished", newest=shown)
    panel = Panel(batch)
    assert text(panel).count("…") == 5
    assert [panel.paint(), panel.paint()] == [False, True]
    assert "…" not in text(panel)
    panel.close()


def test_a_state_that_cannot_be_read_is_said(batch, panel):
    """The last state stays on show, and the next look may succeed."""
    batch.state = OSError("<gone>")
    assert not panel.paint()
    assert "&lt;gone&gt;" in text(panel)
    assert "3 of 4 rows settled" in text(panel)
    batch.state = small_run()
    panel.paint()
    assert "gone" not in text(panel)


def test_two_panels_of_a_run_are_both_right(batch):
    """Each has its own widgets and its own painter."""
    one, two = Panel(batch), Panel(batch)
    batch.state = small_run(phase="paused")
    one.paint()
    two.paint()
    assert "Paused" in text(one)
    assert "Paused" in text(two)
    one.close()
    two.paint()
    assert not two.is_closed
    two.close()


def test_the_painter_shows_the_last_state_and_ends_with_its_panel(batch):
    """The end is painted by its thread; a closed panel is painted no more, and leaves no widget behind."""
    panel = Panel(batch)
    painted = queue.Queue()
    for widget in widgets(panel.box):
        widget.observe(lambda change: painted.put(str(change["new"])), names="value")
    thread = start(panel)
    batch.state = small_run(phase="finished", by_status={"completed": 4})
    panel.wake.set()
    while "4 of 4 rows settled" not in painted.get(timeout=SOON_S):
        pass
    panel.box.close()
    thread.join(SOON_S)
    assert not thread.is_alive()
    assert all(widget.comm is None for widget in widgets(panel.box))


def test_a_panel_that_is_forgotten_is_painted_no_more():
    """The painter does not keep what it paints."""

    class Forgettable:
        is_closed = False

        def __init__(self):
            self.wake, self.painted = threading.Event(), threading.Event()
            self.changing = threading.Lock()

        def paint(self):
            self.painted.set()
            return True

    panel = Forgettable()
    thread, painted = start(panel), panel.painted
    assert painted.wait(SOON_S)
    del panel
    thread.join(SOON_S)
    assert not thread.is_alive()


def test_the_widget_comes_with_its_static_form(batch, panel):
    """A front end without widgets shows the same; the box itself gives the same bundle."""
    bundle = panel.box._repr_mimebundle_()
    assert bundle[VIEW_TYPE]["model_id"] == panel.box.model_id
    assert "3 of 4 rows settled" in bundle["text/html"]
    assert bundle["text/plain"].startswith("Running: 3 of 4 rows settled")


def test_outputs_keep_the_last_state(batch, panel, outputs):
    """When the run is over its last state is written into every output: alone where nothing is left to click."""
    panel.box._ipython_display_()
    assert VIEW_TYPE in outputs[-1]
    batch.state = small_run(phase="finished", by_status={"completed": 4})
    panel.paint()
    panel.paint()
    assert len(outputs) == 2, "once"
    assert set(outputs[-1]) == {"text/plain", "text/html"}
    assert "4 of 4 rows settled" in outputs[-1]["text/html"]
    batch.state = small_run()
    panel.paint()
    assert VIEW_TYPE in outputs[-1], "the buttons are back when it goes on"


def test_outputs_keep_their_buttons_where_they_are_of_use(batch, panel, outputs):
    """A stopped run can be resumed, so its widget stays; going on again changes no output."""
    panel.display()
    batch.state = small_run(phase="stopped")
    panel.paint()
    assert VIEW_TYPE in outputs[-1]
    assert "Stopped" in outputs[-1]["text/html"]
    batch.state = small_run()
    panel.paint()
    assert len(outputs) == 2


def test_displays_of_a_run_share_a_panel(batch, in_kernel):
    """Showing a run again costs no further painter; a closed one is made anew; `panel()` always is."""
    model_id = mimebundle(batch)[VIEW_TYPE]["model_id"]
    assert mimebundle(batch)[VIEW_TYPE]["model_id"] == model_id
    other = panels.panel(batch)
    assert other.model_id != model_id
    other.close()
    _displayed[id(batch)].close()
    assert mimebundle(batch)[VIEW_TYPE]["model_id"] != model_id
    assert len(_displayed) == 1


def test_a_closed_panel_is_displayed_as_it_was(batch):
    """Its widget is gone, its state is not."""
    panel = Panel(batch)
    panel.close()
    assert set(panel.bundle()) == {"text/plain", "text/html"}


def test_a_panel_is_never_painted_and_closed_at_once(batch, monkeypatch):
    """A widget that one thread has just closed has nowhere to send what another one shows."""
    panel, is_painting, overlaps = Panel(batch), threading.Event(), []

    def paint(panel: Panel) -> bool:
        is_painting.set()
        overlaps.append(closing.join(0.2) or panel.is_closed)
        return True

    monkeypatch.setattr(Panel, "paint", paint)
    closing = threading.Thread(target=lambda: is_painting.wait(PATIENCE_S) and panel.close())
    closing.start()
    painter = start(panel)
    closing.join(PATIENCE_S)
    panel.wake.set()
    painter.join(PATIENCE_S)
    assert overlaps == [False]
    assert panel.is_closed


def test_show_displays_the_shared_panel(batch, in_kernel, outputs):
    """In a kernel with its widget."""
    show(batch)
    assert VIEW_TYPE in outputs[0]


def test_without_a_kernel_only_the_static_form_is_given(batch, outputs, monkeypatch):
    """Plain IPython has a shell without a kernel."""
    monkeypatch.setattr(IPython, "get_ipython", object)
    assert set(mimebundle(batch)) == {"text/plain", "text/html"}
    show(batch)
    assert set(outputs[0]) == {"text/plain", "text/html"}


def test_without_ipywidgets_only_the_static_form_is_given(batch, in_kernel, monkeypatch):
    """A broken installation still shows the run."""
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert set(mimebundle(batch)) == {"text/plain", "text/html"}


def test_the_static_form_loads_no_widgets():
    """Neither does asking for the bundle outside of a notebook load IPython."""
    code = (
        "import sys\nfrom dreamo_batch.display.panel import mimebundle\n"
        "from tests.fakes import small_run\n"
        "class Batch: status, can_control = small_run(), True\n"
        "assert set(mimebundle(Batch())) == {'text/plain', 'text/html'}\n"
        "assert not {'ipywidgets', 'IPython'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parent.parent)
