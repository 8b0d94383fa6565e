"""The gallery's widget: what it shows, what it answers, and what is chosen in it."""

from __future__ import annotations

import re
import sys
from importlib.resources import files
from types import ModuleType

import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.display import gallery as galleries
from dreamo_batch.display.gallery import full_picture, gallery
from dreamo_batch.errors import UsageError
from tests.grids import Page, draw, results

VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture
def shown(tmp_path):
    table = results(
        {"prompt": ["a", "a", "b", "b"], "seed": [1, 2, 1, 2]},
        status=["completed", "failed", "completed", "completed"],
        output_path=[draw(tmp_path, "one.png"), None, "gone.png", draw(tmp_path, "two.jpg")],
        cost=["0.5", None, None, None],
        job_id=["j1", "j2", "j3", "j4"],
    )
    table.index = ["w", "x", "y", "z"]
    return gallery(table, run_dir=tmp_path)


@pytest.fixture
def sent(shown, monkeypatch):
    messages = []
    monkeypatch.setattr(
        shown.widget(), "send", lambda content, buffers=None: messages.append((content, buffers))
    )
    return messages


def ask(shown, **message):
    shown.widget()._handle_custom_msg(message, [])


def page_of(shown):
    return Page(shown.widget().content["html"])


def test_the_widget_shows_the_page(shown):
    """Labels, kinds, thumbnails, and what is known of each cell, as the static page has them."""
    html = shown.widget().content["html"]
    page = Page(html)
    assert re.findall(r'<th scope="row"><span class="dg-label">(.*?)</span>', html) == ["a", "b"]
    assert re.findall(r'<th scope="col"><span class="dg-label">(.*?)</span>', html) == ["1", "2"]
    assert page.kinds == ["picture", "failed", "gone", "picture"]
    assert [image["alt"] for image in page.all("img")] == ["a, seed 1", "b, seed 2"]
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in page.all("img"))
    facts = re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html.split("</dl>")[0])
    assert {("cost", "$0.50"), ("job_id", "j1"), ("seed", "1")} <= set(facts)
    assert {"2 pictures", "1 file missing or damaged", "1 failed"} <= set(page.texts)
    assert "<style" not in html  # the widget has its style sheet from the package


def test_what_is_chosen_in_the_widget_is_the_selection(shown):
    """Both ways, by position there and by label here; what can't be is let go."""
    widget = shown.widget()
    widget.chosen = [3, 0, 99, "x"]
    assert shown.selection.index.tolist() == ["w", "z"]
    assert widget.chosen == [0, 3]
    shown.select(["x"])
    assert widget.chosen == [1]
    assert shown.widget() is widget


def test_pages_are_turned_from_both_sides(shown, tmp_path):
    """And what is chosen stays chosen."""
    paged = gallery(shown.results, run_dir=tmp_path, page_rows=1, page_columns=1)
    paged.select(["w"])
    ask(paged, type="turn", number=4)
    assert (paged.widget().content["number"], paged.widget().content["pages"]) == (4, 4)
    assert 'data-position="3"' in paged.widget().content["html"]
    paged.page(2)
    assert "rows 1 to 1 of 2, columns 2 to 2 of 2" in page_of(paged).texts
    ask(paged, type="turn", number=5)
    assert paged.widget().content["number"] == 2
    assert paged.selection.index.tolist() == ["w"]


def test_full_pictures_are_sent_when_asked_for(shown, sent, tmp_path):
    """The file as it is; without one for a picture that is gone or was never made, or nobody has."""
    for position in (3, 2, 1, 99):
        ask(shown, type="full", position=position)
    assert sent == [
        ({"type": "full", "position": 3, "media": "image/jpeg"}, [(tmp_path / "two.jpg").read_bytes()]),
        ({"type": "full", "position": 2}, None),
        ({"type": "full", "position": 1}, None),
    ]


@pytest.mark.parametrize("message", [{}, {"type": "full", "position": "../x"}, {"type": "turn"}, {"type": 1}])
def test_other_messages_are_let_go(shown, sent, message):
    """Nothing is sent, nothing fails."""
    ask(shown, **message)
    assert sent == []


def test_heavy_and_strange_pictures_become_jpeg(tmp_path, monkeypatch):
    """A browser can show each, and no more than is allowed is sent as it is."""
    Image.new("RGB", (3_000, 30), "red").save(tmp_path / "wide.bmp")
    media, content = full_picture(tmp_path / "wide.bmp")
    assert (media, content[:2]) == ("image/jpeg", b"\xff\xd8")
    draw(tmp_path, "large.png", size=(300, 300))
    assert full_picture(tmp_path / "large.png")[0] == "image/png"
    monkeypatch.setattr(galleries, "FULL_BYTES_MAX", 10)
    assert full_picture(tmp_path / "large.png")[0] == "image/jpeg"
    (tmp_path / "none.jpg").write_bytes(b"nothing of the kind")
    assert full_picture(tmp_path / "none.jpg") is None


def test_a_notebook_gets_the_widget_and_the_static_page_beside_it(shown):
    """So that a saved notebook still shows something without its kernel."""
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", VIEW}
    assert bundle["text/html"] == shown._repr_html_()


def test_widgets_keep_their_own_styles():
    """In a page, anywidget replaces the styles of a widget by those of the last one of the same name."""
    shown, compared = (galleries.widget_class(name)() for name in ("gallery", "compare"))
    assert shown._anywidget_id != compared._anywidget_id


def test_without_anywidget_the_static_page_is_shown(shown, monkeypatch):
    """Or with one that is broken; and asking for the widget says what to install."""
    for broken in (ModuleType("anywidget"), None):
        galleries.widget_class.cache_clear()
        monkeypatch.setitem(sys.modules, "anywidget", broken)
        assert set(shown._repr_mimebundle_()) == {"text/plain", "text/html"}
    with pytest.raises(UsageError, match=r"dreamo-batch\[gallery\]"):
        shown.widget()


def test_a_gallery_of_a_directory_is_read_anew(tmp_path):
    """From Python or with the button; one of a table can't be."""
    reference = draw(tmp_path, "reference.png")
    jobs = dreamo.sweep(image=str(tmp_path / reference), prompt="a", seed=range(2), size="512x512")
    with dreamo.LocalGateway(engine="flat") as gateway:
        dreamo.run(jobs[:1], tmp_path / "run", gateway=gateway, progress=False)
        seen = dreamo.gallery(tmp_path / "run")
        assert seen.widget().content["live"]
        seen.select([0])
        dreamo.run(jobs, tmp_path / "run", gateway=gateway, progress=False)
    ask(seen, type="refresh")
    assert page_of(seen).kinds == ["picture", "picture"]
    assert seen.selection.index.tolist() == [0]
    with pytest.raises(UsageError, match="run directory"):
        dreamo.gallery(seen.results).refresh()


def test_the_script_only_parses_what_the_template_escaped():
    """The page in `content` is the only markup that it reads, and nothing is fetched or evaluated."""
    script = (files("dreamo_batch") / "display/assets/gallery.js").read_text(encoding="utf-8")
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "http"):
        assert word not in script
    assert re.findall(r"parseFromString\((.*?),", script) == ['model.get("content").html']


def test_nothing_of_the_table_is_markup_in_the_widget(tmp_path):
    """Prompts, labels, messages and the title are escaped."""
    evil = '<img src=x onerror="alert(1)">'
    table = results({"prompt": evil, "seed": [1]}, status="failed", error_message=evil)
    page = page_of(gallery(table, run_dir=tmp_path, title=evil))
    assert page.all("img") == []
    assert page.texts.count(evil) == 4  # heading, label, box and facts
    assert not any(name.startswith("on") for _, attrs in page.elements for name in attrs)
