"""Panel, gallery, ratings and comparison where people work who don't use JupyterLab: Notebook 7 and marimo."""

from __future__ import annotations

from playwright.sync_api import expect

import dreamo_batch as dreamo
from tests.browser.lab import Marimo
from tests.browser.notebook_page import NotebookPage

SHOW = ("seen = dreamo.gallery(done, rater='ann')\nseen", "pairs = dreamo.compare(done, rater='ann')\npairs")


def rate_and_choose(tab, shop):
    """Press a key on a picture, one on a pair, and see both in the run directory."""
    gallery, pairs = tab.locator(".dreamo-gallery").first, tab.locator(".dreamo-compare").first
    expect(gallery.locator("td img")).to_have_count(4)
    gallery.locator("td summary").first.focus()
    # Jupyter has commands on x and u, which it looks for before a page's own listeners hear of a key.
    for key, text in (("4", "★ 4"), ("x", "✕ rejected ★ 4"), ("u", "★ 4")):
        tab.keyboard.press(key)
        expect(gallery.locator(".dg-rating")).to_have_text(text)
    pairs.focus()
    for key, count in (("ArrowLeft", "1 of"), ("u", "0 of"), ("ArrowDown", "1 of")):
        tab.keyboard.press(key)
        expect(pairs).to_contain_text(count)
    gallery.locator("td img").first.click()
    enlarged = gallery.get_by_role("dialog")
    expect(enlarged.locator("img[data-full]")).to_be_visible()
    tab.keyboard.press("x")
    expect(enlarged.locator(".dg-rating")).to_have_text("✕ rejected ★ 4")
    tab.keyboard.press("Escape")
    assert dreamo.ratings(shop.run_dir)["kind"].tolist() == ["rating", "reject", "undo", "reject"]
    assert dreamo.ratings(shop.run_dir)["value"].tolist()[0] == 4
    assert dreamo.compare(shop.run_dir).scores()["tied"].sum() == 2


def test_panel_gallery_and_comparison_live_in_notebook_7(shop, lab, tab):
    """The panel moves and obeys, keys rate and choose."""
    start = f"{shop.call('start', 'live', max_in_flight=2)}\nlive"
    cells = (shop.setup(n_rows=4), start, "done = live.wait()", *SHOW)
    book = NotebookPage(tab, lab.root / "seven.ipynb", *cells)
    book.open_in_notebook_7(lab.url, lab.token)
    book.run(0, 1)
    panel = tab.locator(".dreamo-panel")
    expect(panel).to_contain_text("2 in flight")
    panel.get_by_role("button", name="Pause").click()
    expect(panel).to_contain_text("Waiting for 2 submitted tasks")
    panel.get_by_role("button", name="Resume").click()
    shop.open_for_good()
    book.run(2, 3, 4)
    rate_and_choose(tab, shop)
    expect(tab.locator(".jupyter-widgets.widget-hbox").first).to_contain_text("4/4")
    shop.assert_bought_once(n_rows=4)


def test_gallery_and_comparison_live_in_marimo_and_the_rest_is_static(shop, tmp_path, tab):
    """A run has marimo's own bar, the panel is HTML of the moment, keys rate and choose."""
    cells = (shop.setup(n_rows=4), shop.call("run"), *SHOW, "dreamo.watch(done['run_dir'].iloc[0]).panel()")
    with Marimo(tmp_path / "marimo", *cells) as marimo:
        tab.goto(f"{marimo.url}/?access_token={marimo.token}")
        expect(tab.locator("marimo-progress")).to_contain_text("in flight=4")
        shop.open_for_good()
        rate_and_choose(tab, shop)
        expect(tab.locator(".dreamo-static")).to_contain_text("4 of 4 rows settled")
    shop.assert_bought_once(n_rows=4)
