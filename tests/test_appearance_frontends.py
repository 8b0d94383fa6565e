"""What is shown where: widgets where they work, the static form elsewhere, and marimo's own bar in marimo."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import IPython
import pytest

import dreamo_batch as dreamo
from dreamo_batch.display import gallery as galleries
from dreamo_batch.display.progress import shown
from dreamo_batch.parallel import ticking
from tests.fakes import small_run
from tests.grids import draw, results

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def seen(tmp_path):
    table = results({"prompt": ["a"], "seed": [1]}, output_path=[draw(tmp_path, "one.png")])
    return dreamo.gallery(table, run_dir=tmp_path)


@pytest.fixture
def asked(monkeypatch):
    """Have a cell run that a front end asked for."""

    def ask(**content):
        kernel = SimpleNamespace(get_parent=lambda: {"content": content})
        monkeypatch.setattr(IPython, "get_ipython", lambda: SimpleNamespace(kernel=kernel))

    return ask


def test_a_notebook_that_is_only_run_has_the_static_form(seen, asked, monkeypatch):
    """A page made by nbconvert shows no widget without the network; Voila's has a kernel."""
    asked(allow_stdin=True)
    assert VIEW in seen._repr_mimebundle_()
    asked(allow_stdin=False)
    assert set(seen._repr_mimebundle_()) == {"text/plain", "text/html"}
    monkeypatch.setenv("VOILA_REQUEST_URL", "http://127.0.0.1/")
    assert VIEW in seen._repr_mimebundle_()


def test_colab_learns_where_the_code_of_widgets_is(seen, monkeypatch):
    """Without the metadata of the widget, Colab shows nothing."""
    output = SimpleNamespace(
        enable_custom_widget_manager=lambda: None, _widgets=SimpleNamespace(_installed_url="https://x.test")
    )
    monkeypatch.setitem(sys.modules, "google.colab.output", output)
    bundle, metadata = seen._repr_mimebundle_()
    assert VIEW in bundle
    assert metadata[VIEW]["colab"]["custom_widget_manager"]["url"] == "https://x.test"


@pytest.fixture
def marimo(monkeypatch):
    """A cell of marimo; gives what its bars are told."""
    told = []

    class Bar:
        def __init__(self, **options):
            told.append(options)

        def __enter__(self):
            return self

        def update(self, increment=1, subtitle=None):
            told.append((increment, subtitle))

        def __exit__(self, *_):
            told.append("closed")

    fake = SimpleNamespace(
        running_in_notebook=lambda: True, status=SimpleNamespace(progress_bar=Bar), Html=lambda html: html
    )
    monkeypatch.setitem(sys.modules, "marimo", fake)
    return told


def test_marimo_shows_progress_in_its_own_bar(marimo, capsys):
    """Neither tqdm's bar nor ipywidgets show there; rows that are submitted again take steps back."""
    bar = shown(small_run(), show=True)
    bar.update(small_run(by_status={"completed": 4}))
    bar.update(small_run(by_status={"completed": 2, "pending": 2}))
    bar.say("All is well.")
    bar.close()
    assert marimo[0] == {"total": 4, "title": "dreamo", "remove_on_exit": False}
    assert [told[0] for told in marimo[1:-1]][-3:] == [0, 1, -2]
    assert "spent=" in marimo[-2][1]
    assert marimo[-1] == "closed"
    assert capsys.readouterr().out == "All is well.\n"
    marimo.clear()
    with ticking(2, "measuring") as tick:
        tick()
    assert marimo == [{"total": 2, "title": "measuring", "remove_on_exit": True}, (1, None), "closed"]


def test_work_goes_on_where_marimos_bar_fails(marimo, monkeypatch):
    """Another version may have none, or want other arguments."""
    monkeypatch.delattr(sys.modules["marimo"].status, "progress_bar")
    with ticking(2, "measuring") as tick:
        tick()
    assert not marimo


def test_marimo_shows_the_widget_of_a_gallery(seen, marimo, monkeypatch):
    """And without anywidget the static page."""
    assert seen._display_() is seen.widget()
    monkeypatch.setitem(sys.modules, "anywidget", None)
    galleries.widget_class.cache_clear()
    other = dreamo.gallery(seen.results, run_dir=seen.run_dir)
    assert other._display_() == other._repr_html_()
    galleries.widget_class.cache_clear()
