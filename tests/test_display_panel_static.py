"""The static form of a panel: whole, escaped, small, and readable where only text is."""

from __future__ import annotations

import os
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from dreamo_batch.display.grid import panel_jpeg
from dreamo_batch.display.panel import html_blocks, status_html, status_text, view_of
from dreamo_batch.engine.picture_cache import Thumbnail
from dreamo_batch.engine.status import ErrorGroup, Picture
from tests.fakes import small_run
from tests.pictures import encoded, noisy, plain

HOSTILE = "\"'><script>alert(1)</script><img src=x onerror=alert(1)>\x1b]0;x\x07"


class Tags(HTMLParser):
    """Every element of a page, with its attributes; and whether each is closed again."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag != "img":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def picture(path, prompt="a fox", job_id="a"):
    return Picture(3, job_id, prompt, 7, Path(path), None)


@pytest.fixture
def saved(tmp_path):
    (tmp_path / "fox.png").write_bytes(encoded(plain(640, 320)))
    return tmp_path / "fox.png"


def test_everything_of_the_panel_is_in_the_html(saved):
    """Progress, money, errors, pictures, notices, the problem, and when it was so."""
    html = status_html(small_run(newest=(picture(saved),), notices=("busy",), problem="no more money"))
    for words in ("3 of 4 rows settled", "$0.06", "$0.50", "permanent", "a fox", "busy", "no more money"):
        assert words in html
    assert "as of 2026-01-02 03:04:05 UTC" in html
    assert "data:image/jpeg;base64," in html


def test_words_of_others_are_only_words(saved):
    """Nothing that a prompt, a label, a notice or the service says becomes an element or an attribute."""
    status = small_run(
        errors=(ErrorGroup(HOSTILE, 1, HOSTILE, HOSTILE),),
        newest=(picture(saved, HOSTILE, HOSTILE), picture("gone.png", HOSTILE)),
        notices=(HOSTILE,),
        problem=HOSTILE,
        run_dir=Path("runs") / HOSTILE.replace("/", ""),
    )
    page = Tags(status_html(status))
    assert not page.open
    assert {tag for tag, _ in page.tags} <= {"div", "style", "span", "b", "ul", "li", "img"}
    allowed = {"class", "style", "title", "role", "aria-label", "src", "alt"}
    assert all(set(attributes) <= allowed for _, attributes in page.tags)
    assert all(a["src"].startswith("data:image/jpeg;base64,") for tag, a in page.tags if tag == "img")
    assert "\x1b" not in status_text(status)


def test_the_html_needs_nothing_from_elsewhere(saved):
    """A saved notebook shows it without a network, and twelve pictures stay small."""
    noisy(900, 900).save(saved)
    shown = tuple(picture(saved, job_id=str(number)) for number in range(12))
    html = status_html(small_run(newest=shown))
    assert "http" not in html
    assert "url(" not in html
    assert len(html) < 300_000


def test_amounts_are_not_set_as_formulas():
    """JupyterLab sets what stands between two dollar signs as a formula, unless it is told not to."""
    assert Tags(status_html(small_run())).tags[0][1]["class"].endswith("mathjax_ignore tex2jax_ignore")


def test_text_tells_the_same():
    """A terminal gets lines: what stopped the run, the warning about the cap, and no line that says nothing."""
    text = status_text(
        small_run(phase="stopped", problem="no more money\nraise the cap", reserved_usd=0, errors=())
    )
    assert text.startswith("Stopped: 3 of 4 rows settled (75 %)  runs/example\n  [✓✓✓✓")
    assert "  no more money\n  raise the cap" in text
    assert "reserved" not in text
    assert all(line.strip() for line in text.split("\n"))
    assert "[" not in status_text(small_run(by_status={}))


def test_a_picture_that_is_not_there_is_said():
    """In the place of a picture stands a word: it is still being read, or can't be."""
    caption = view_of(small_run(newest=(picture("gone.png"),))).pictures[0]
    assert "…" in html_blocks().picture(caption, None)
    assert "can't be read" in html_blocks().picture(caption, b"")


def test_empty_blocks_are_left_out():
    """Without errors, notices, pictures and problem there are no headings for them."""
    html = status_html(small_run(errors=()))
    assert not any(f"<b>{words}</b>" in html for words in ("Errors", "Notices", "Newest pictures"))
    assert html_blocks().problem(view_of(small_run())).strip() == ""


def test_a_thumbnail_is_a_small_jpeg_whatever_the_picture_is(tmp_path):
    """PNG, palette, see-through, grey, WebP; the shape is kept."""
    for number, mode in enumerate(("RGB", "RGBA", "P", "L", "LA", "1", "CMYK")):
        kind = "TIFF" if mode == "CMYK" else "PNG"
        path = tmp_path / f"{number}.img"
        path.write_bytes(encoded(plain(640, 320, mode), kind))
        with Image.open(path) as before:
            assert before.mode == mode
        (tmp_path / "small.jpg").write_bytes(panel_jpeg(path))
        with Image.open(tmp_path / "small.jpg") as made:
            assert (made.size, made.format, made.mode) == ((160, 80), "JPEG", "RGB")


def test_what_is_see_through_is_white(tmp_path):
    """JPEG has no transparency, and black would look like a picture."""
    Image.new("RGBA", (10, 10), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    clear = tmp_path / "clear.png"
    (tmp_path / "small.jpg").write_bytes(panel_jpeg(clear))
    with Image.open(tmp_path / "small.jpg") as made:
        assert made.getpixel((5, 5)) == (255, 255, 255)


def test_damaged_and_missing_pictures_have_an_empty_thumbnail(tmp_path):
    """A panel never fails over a picture."""
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    paths = [tmp_path / "broken.jpg", tmp_path / "gone.jpg"]
    assert list(map(panel_jpeg, paths)) == [b"", b""]


def test_a_thumbnail_is_made_once_per_file(saved, monkeypatch):
    """It is made again only when the file is another one."""
    made = []
    jpeg = Thumbnail(b"jpeg", 1, 1)
    maker = "dreamo_batch.display.grid.make_thumbnail"
    monkeypatch.setattr(maker, lambda path, *_: made.append(path) or jpeg)
    assert [panel_jpeg(saved), panel_jpeg(saved)] == [b"jpeg", b"jpeg"]
    os.utime(saved, ns=(1, 1))
    panel_jpeg(saved)
    assert made == [saved, saved]
