"""The gallery's widget: what it shows, what it answers, and what is chosen in it."""

from __future__ import annotations

import builtins

import pytest
from PIL import Image

import dreamo_batch as dreamo
from dreamo_batch.display import gallery
from dreamo_batch.display.gallery import ESM, make_gallery
from dreamo_batch.errors import UsageError
from tests.grids import draw, results

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
    return make_gallery(table, run_dir=tmp_path)


@pytest.fixture
def sent(shown, monkeypatch):
    messages = []
    monkeypatch.setattr(
        shown.widget(), "send", lambda content, buffers=None: messages.append((content, buffers))
    )
    return messages


def ask(shown, **message):
    shown.widget()._handle_custom_msg(message, [])


def cells(shown):
    return [cell["entries"] for row in shown.widget().content["rows"] for cell in row["cells"]]


def test_the_widget_shows_the_page(shown):
    """Labels, kinds, thumbnails as bytes, and what is known of each cell."""
    content = shown.widget().content
    assert [row["labels"] for row in content["rows"]] == [["a"], ["b"]]
    assert [column["labels"] for column in content["columns"]] == [["1"], ["2"]]
    assert [entry["kind"] for (entry,) in cells(shown)] == ["picture", "failed", "gone", "picture"]
    first = cells(shown)[0][0]
    assert first["thumbnail"][0][:2] == b"\xff\xd8"
    assert {("cost", "$0.5"), ("job_id", "j1"), ("seed", "1"), ("prompt", "a")} <= set(
        map(tuple, first["facts"])
    )
    assert cells(shown)[2][0]["thumbnail"] is None
    assert content["counts"] == [
        ["picture", "2 pictures"],
        ["gone", "1 file gone or damaged"],
        ["failed", "1 failed"],
    ]


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
    paged = make_gallery(shown.results, run_dir=tmp_path, page_rows=1, page_columns=1)
    paged.select(["w"])
    ask(paged, type="turn", number=4)
    assert (paged.widget().content["number"], paged.widget().content["pages"]) == (4, 4)
    assert cells(paged)[0][0]["position"] == 3
    paged.page(2)
    assert paged.widget().content["extent"] == "rows 1 to 1 of 2, columns 2 to 2 of 2"
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


def test_heavy_and_strange_pictures_become_jpeg(tmp_path):
    """A browser can show each, and no more than is allowed is sent as it is."""
    Image.new("RGB", (3_000, 30), "red").save(tmp_path / "wide.bmp")
    media, content = gallery.full(tmp_path / "wide.bmp")
    assert (media, content[:2]) == ("image/jpeg", b"\xff\xd8")
    draw(tmp_path, "large.png", size=(300, 300))
    assert gallery.full(tmp_path / "large.png", bytes_max=10)[0] == "image/jpeg"
    assert gallery.full(tmp_path / "large.png")[0] == "image/png"
    (tmp_path / "none.jpg").write_bytes(b"nothing of the kind")
    assert gallery.full(tmp_path / "none.jpg") is None


def test_a_notebook_gets_the_widget_and_the_static_page_beside_it(shown):
    """So that a saved notebook still shows something without its kernel."""
    bundle = shown._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", VIEW}
    assert bundle["text/html"] == shown._repr_html_()


def test_without_anywidget_the_static_page_is_shown(shown, monkeypatch):
    """And asking for the widget says what to install."""
    real = builtins.__import__

    def without(name, *rest):
        if name == "anywidget":
            raise ModuleNotFoundError("No module named 'anywidget'", name=name)
        return real(name, *rest)

    gallery._class.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
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
    assert [entry["kind"] for (entry,) in cells(seen)] == ["picture", "picture"]
    assert seen.selection.index.tolist() == [0]
    with pytest.raises(UsageError, match="run directory"):
        dreamo.gallery(seen.results).refresh()


def test_the_front_end_writes_words_only():
    """Nothing of a table is ever read as markup, and nothing is fetched."""
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "http"):
        assert word not in ESM
