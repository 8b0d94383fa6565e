"""The gallery in a notebook: pictures, what became of the other rows, and what clicks lead to."""

from __future__ import annotations

import re
from typing import Final

from playwright.sync_api import expect

import dreamo_batch as dreamo
from tests import grids

PROMPTS: Final = (
    "on a beach at sunset, the light low over the water",
    '<img src=x onerror="window.isHarmed = true"> in the snow',
)
RUN, GALLERY, AFTER = 1, 2, 3
_ALL_SHOWN: Final = "pictures => pictures.every(one => one.complete && one.naturalWidth > 0)"


def expect_chosen(book, rows):
    """Run the cell behind the gallery until it shows these rows: the page tells the kernel a moment after a click."""
    for _ in range(10):
        output = book.run(AFTER)
        if rows in output.inner_text():
            break
    expect(output).to_contain_text(rows)


def opened(notebook, shop, call, *cells):
    """Open a notebook, run six rows, and show the gallery."""
    book = notebook(shop.setup(n_rows=6, prompts=PROMPTS), call, *cells)
    book.run(0, RUN, GALLERY)
    return book, book.output(GALLERY).locator(".dreamo-gallery").first


def test_gallery_shows_pictures_a_click_enlarges_and_what_is_chosen_comes_back(shop, notebook, screen):
    """A failed row says why, a click gives the full picture with its parameters, ticks give a selection."""
    shop.open_for_good()
    shop.gateway.faults.script("create", "fail_moderation")
    bought = shop.call("run", max_in_flight=1)
    book, gallery = opened(
        notebook, shop, bought, "seen = dreamo.gallery(done)\nseen", "seen.selection['seed'].tolist()"
    )
    pictures = gallery.locator("td img")
    expect(pictures).to_have_count(5)
    assert pictures.evaluate_all(_ALL_SHOWN)
    expect(gallery).to_contain_text("Risk Not Pass")
    expect(gallery).to_contain_text(PROMPTS[1])
    screen.take_all("gallery", gallery)
    pictures.nth(0).click()
    dialog = gallery.get_by_role("dialog")
    full = dialog.locator("img[data-full]")
    expect(full).to_be_visible()
    book.page.wait_for_function("() => document.querySelector('img[data-full]').naturalWidth === 512")
    for word in ("seed", "cost", "job_id"):
        expect(dialog).to_contain_text(word)
    screen.take_all("gallery-enlarged", None)
    dialog.get_by_role("button", name="close").click()
    expect(dialog).to_be_hidden()
    for at in (0, 1):
        pictures.nth(at).hover()
        gallery.locator(".dg-entry:has(img) .dg-tick").nth(at).click()
    expect(gallery).to_contain_text("2 chosen")
    screen.take("gallery-chosen", gallery)
    expect_chosen(book, "[1, 2]")
    assert book.page.evaluate("window.isHarmed") is None


def test_gallery_of_a_run_under_way_draws_what_is_not_there_yet(shop, notebook, screen):
    """Rows at the service and rows not submitted yet stand in their places, and give way to pictures."""
    started = shop.call("start", "live", max_in_flight=2)
    book, gallery = opened(notebook, shop, started, "dreamo.gallery(live.results())", "done = live.wait()")
    expect(gallery).to_contain_text("pending")
    screen.take_all("gallery-under-way", gallery)
    shop.open_for_good()
    book.run(AFTER, GALLERY)
    expect(gallery.locator("td img")).to_have_count(6)


def test_gallery_without_its_widget_is_a_grid_that_unfolds(shop, notebook, screen):
    """As on a page that a notebook is published on: pictures, and parameters below the one that is clicked."""
    shop.open_for_good()
    shown = "from IPython.display import HTML\nHTML(dreamo.gallery(done).fragment())"
    _, gallery = opened(notebook, shop, shop.call("run"), shown)
    pictures = gallery.locator("td img")
    expect(pictures).to_have_count(6)
    pictures.nth(0).click()
    expect(gallery).to_contain_text(re.compile(r"job_id[0-9a-f]{12}"))
    screen.take_all("gallery-static", gallery)


def test_what_a_cell_has_no_room_for_is_unfolded(shop, notebook, screen):
    """In the widget, without it, and on the page, a click shows every picture that a cell counts."""
    shop.open_for_good()
    bought = shop.call("run")
    axes = "rows=None, columns='prompt'"
    cells = (
        f"everything = dreamo.gallery(done.assign(prompt='all'), {axes})\neverything",
        "from IPython.display import HTML\nHTML(everything.fragment())",
    )
    book, live = opened(notebook, shop, bought, *cells)
    book.run(AFTER)
    for gallery, name in ((live, "live"), (book.output(AFTER).locator(".dreamo-gallery").first, "static")):
        pictures = gallery.locator("td img")
        expect(pictures).to_have_count(6)
        expect(pictures.nth(5)).to_be_hidden()
        gallery.get_by_text("+2 more").click()
        expect(pictures.nth(5)).to_be_visible()
        assert pictures.evaluate_all(_ALL_SHOWN)
        screen.take(f"gallery-unfolded-{name}", gallery)


def test_a_page_unfolds_what_a_cell_has_no_room_for(browser, tmp_path):
    """And steps through it when one of its pictures is enlarged."""
    table = grids.results(
        {"prompt": "a", "seed": 1, "tag": range(6)}, output_path=grids.draw(tmp_path, "a.png")
    )
    path = dreamo.gallery(table, "prompt", "seed", run_dir=tmp_path).to_html(tmp_path / "page.html")
    page = browser.new_page()
    page.goto(path.as_uri())
    pictures = page.locator("tbody td img")
    expect(pictures).to_have_count(6)
    expect(pictures.nth(5)).to_be_hidden()
    page.get_by_text("+2 more").click()
    expect(page.get_by_role("dialog")).to_be_hidden()
    expect(pictures.nth(5)).to_be_visible()
    pictures.nth(3).click()
    page.get_by_role("button", name="next").click()
    expect(page.get_by_role("dialog")).to_contain_text("tag 4")
    page.close()


def test_rows_of_one_column_stand_side_by_side(browser, tmp_path):
    """Arrows move as the eye does: right to the next prompt, down to the one below."""
    table = grids.results(
        {"prompt": list("abcdefghijk"), "seed": 7}, output_path=grids.draw(tmp_path, "a.png")
    )
    page = browser.new_page(viewport={"width": 900, "height": 800})
    page.goto(dreamo.gallery(table, run_dir=tmp_path).to_html(tmp_path / "page.html").as_uri())
    places = page.locator("tbody tr").evaluate_all("rows => rows.map(row => row.offsetTop)")
    n_across = places.count(places[0])
    assert n_across == 4
    page.locator("td summary").first.focus()
    for key, expected in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + n_across),
        ("ArrowLeft", n_across),
        ("ArrowUp", 0),
    ):
        page.keyboard.press(key)
        assert page.evaluate("document.activeElement.parentElement.dataset.position") == str(expected)
    assert page.locator(".dg-hint").inner_text() == "click or Enter: enlarge · arrows: move"
    page.close()


def test_a_phone_shows_references_of_columns_above_them(browser, tmp_path):
    """Labels of columns stand at the pictures there, and a heading of labels only is left out."""
    names = [str(tmp_path / grids.draw(tmp_path, name)) for name in ("a.png", "b.png")]
    table = grids.results({"prompt": list("aabb"), "seed": [1, 2, 1, 2]}, output_path=names[0])
    page = browser.new_page(viewport={"width": 390, "height": 800})
    for part, n_references in ((table.assign(image=names * 2), 2), (table, 0)):
        path = dreamo.gallery(part, "prompt", "seed", run_dir=tmp_path).to_html(
            tmp_path / f"{n_references}.html"
        )
        page.goto(path.as_uri())
        heading = page.locator("thead").bounding_box()
        assert page.locator("thead .dg-references img").count() == n_references
        assert (heading["height"] > 60) == bool(n_references)
    page.close()


def test_paper_shows_every_row_of_one_column_alike(browser, tmp_path):
    """Also those that the page had turned away, with whole labels below and no heading that says nothing."""
    prompts = [f"{n} fox " * 60 for n in range(13)]
    table = grids.results({"prompt": prompts, "seed": 7}, output_path=grids.draw(tmp_path, "a.png"))
    shown = dreamo.gallery(table, rows="prompt", columns=None, run_dir=tmp_path, page_rows=1)
    page = browser.new_page(viewport={"width": 900, "height": 800})
    page.goto(shown.to_html(tmp_path / "page.html").as_uri())
    assert page.locator("tbody tr:visible").count() == 12
    page.emulate_media(media="print")
    assert page.locator("thead:visible").count() == 0
    labels = page.locator("tbody tr:visible .dg-label")
    assert labels.count() == 13
    assert labels.evaluate_all(
        """labels => labels.every(label => label.scrollHeight <= label.clientHeight + 1
          && label.getBoundingClientRect().top
             >= label.closest("tr").querySelector("td").getBoundingClientRect().bottom)"""
    )
    page.close()


def test_keys_and_shift_choose_a_range(shop, notebook):
    """Space chooses, Shift with an arrow or a click extends, Escape clears; arrows move between cells."""
    shop.open_for_good()
    book, gallery = opened(
        notebook, shop, shop.call("run"), "seen = dreamo.gallery(done)\nseen", "seen.chosen"
    )
    entries = gallery.locator("td summary")
    expect(entries).to_have_count(6)
    entries.nth(0).focus()
    book.page.keyboard.press("Space")
    expect(gallery).to_contain_text("1 chosen")
    book.page.keyboard.press("Shift+ArrowRight")
    expect(gallery).to_contain_text("2 chosen")
    entries.nth(5).click(modifiers=["Shift"])
    expect(gallery).to_contain_text("6 chosen")
    expect_chosen(book, "[0, 1, 2, 3, 4, 5]")
    entries.nth(5).focus()
    book.page.keyboard.press("ArrowUp")
    expect(entries.nth(2)).to_be_focused()
    book.page.keyboard.press("Escape")
    expect(gallery.locator("[aria-selected=true]")).to_have_count(0)
    book.page.keyboard.press("Enter")
    expect(gallery.get_by_role("dialog")).to_be_visible()
    book.page.keyboard.press("ArrowLeft")
    expect(gallery.get_by_role("heading")).to_contain_text("seed 1")
    book.page.keyboard.press("Escape")
    expect(entries.nth(1)).to_be_focused()


def test_a_page_turns_filters_and_is_worked_by_keys(browser, tmp_path):
    """Rows and columns beyond a page, rows of one kind, and arrows from cell to cell; no script fails."""
    table = grids.results(
        {"prompt": [f"p{row}" for row in range(5) for _ in range(3)], "seed": list(range(3)) * 5},
        status=["failed"] * 2 + ["completed"] * 13,
        output_path=[None] * 2 + [grids.draw(tmp_path, "a.png")] * 12 + ["nowhere.png"],
    )
    shown = dreamo.gallery(table, run_dir=tmp_path, page_rows=2, page_columns=2)
    page, errors = browser.new_page(), []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(shown.to_html(tmp_path / "page.html").as_uri())
    cells = page.locator("tbody td:visible")
    expect(cells).to_have_count(4)
    expect(page.locator("body")).to_contain_text("rows 1\u20132 of 5")
    page.keyboard.press("PageDown")
    page.get_by_role("button", name="next rows").click()
    expect(page.locator("body")).to_contain_text("rows 5\u20135 of 5")
    page.get_by_role("button", name="next columns").click()
    expect(cells).to_have_count(1)
    page.get_by_role("button", name="previous columns").click()
    kinds = ["all", "failed (2)", "picture (12)", "file missing or damaged (1)"]
    expect(page.get_by_role("combobox").locator("option")).to_have_text(kinds)
    page.get_by_role("combobox").select_option("failed")
    expect(page.locator(".dg-entry:visible")).to_have_count(2)
    expect(page.locator("body")).to_contain_text("rows 1\u20131 of 1")
    page.get_by_role("combobox").select_option("")
    page.locator("tbody summary:visible").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=2)).to_contain_text("p1, seed 0")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("heading", level=2)).to_contain_text("p1, seed 1")
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert errors == []
    page.close()
