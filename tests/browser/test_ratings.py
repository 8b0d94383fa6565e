"""Ratings by keys in the gallery's widget, in JupyterLab in Chromium: kept at once, and shown once they are kept."""

from __future__ import annotations

from typing import Final

from playwright.sync_api import expect

import dreamo_batch as dreamo

GALLERY, AFTER = 2, 3
PROMPTS: Final = ["a lighthouse", "a harbour"]


def opened(notebook, shop, *cells):
    """Open a notebook, run six rows, and show the gallery of them."""
    shop.open_for_good()
    book = notebook(
        shop.setup(n_rows=6, prompts=PROMPTS),
        shop.call("run"),
        "seen = dreamo.gallery(done, rater='ann')\nseen",
        *cells,
    )
    book.run(0, 1, GALLERY)
    gallery = book.output(GALLERY).locator(".dreamo-gallery").first
    expect(gallery.locator("td img")).to_have_count(6)
    return book, gallery


def test_keys_rate_pick_reject_and_undo(shop, notebook, screen):
    """Each key is shown on its picture, and stands in the file of the run directory."""
    book, gallery = opened(notebook, shop, "dreamo.load(done['run_dir'].iloc[0])['rating'].tolist()")
    entries = gallery.locator("td .dg-entry")
    entries.nth(0).locator("summary").focus()
    said = entries.nth(0).locator(".dg-rating")
    for _ in range(3):  # held down: the browser repeats it
        book.page.keyboard.down("4")
    book.page.keyboard.up("4")
    for key, text in (("5", "★ 5"), ("p", "✓ picked ★ 5"), ("u", "★ 5"), ("u", "★ 4")):
        book.page.keyboard.press(key)
        expect(said).to_have_text(text)
    book.page.keyboard.press("ArrowRight")
    book.page.keyboard.press("Shift+X")
    expect(entries.nth(1).locator(".dg-rating")).to_have_text("✕ rejected")
    book.page.keyboard.press("ArrowRight")
    book.page.keyboard.press("P")
    expect(entries.nth(2).locator(".dg-rating")).to_have_text("✓ picked")
    screen.take_all("gallery-rated", gallery)
    entries.nth(2).locator("summary").click()
    dialog = gallery.get_by_role("dialog")
    expect(dialog).to_be_visible()
    book.page.keyboard.press("3")
    expect(dialog.locator(".dg-rating")).to_have_text("✓ picked ★ 3")
    screen.take_all("gallery-rated-enlarged", None)
    book.page.keyboard.press("Escape")
    expect(entries.nth(2).locator(".dg-rating")).to_have_text("✓ picked ★ 3")
    log = dreamo.ratings(shop.run_dir)
    assert log["kind"].tolist() == ["rating", "rating", "pick", "undo", "undo", "reject", "pick", "rating"]
    assert set(log["rater"]) == {"ann"}
    results = dreamo.load(shop.run_dir)
    assert sorted(results["rating"].dropna()) == [3.0, 4.0]
    assert results["picked"].value_counts().to_dict() == {True: 1, False: 1}
    expect(book.run(AFTER)).to_contain_text("4.0")


def test_a_key_on_a_row_without_a_picture_says_so(shop, notebook, screen):
    """Nothing is kept, and the reason stands above the pictures."""
    shop.gateway.faults.script("create", "fail_moderation")
    shop.open_for_good()
    book = notebook(
        shop.setup(n_rows=6, prompts=PROMPTS), shop.call("run", max_in_flight=1), "dreamo.gallery(done)"
    )
    book.run(0, 1, GALLERY)
    gallery = book.output(GALLERY).locator(".dreamo-gallery").first
    gallery.locator(".dg-failed summary").focus()
    book.page.keyboard.press("5")
    expect(gallery.get_by_role("status")).to_contain_text("No picture to rate")
    assert dreamo.ratings(shop.run_dir).empty
    screen.take("gallery-nothing-to-rate", gallery)


def test_after_a_restart_keys_say_that_nobody_listens(shop, notebook):
    """In the grid, enlarged, and in a comparison; the error was the console's alone."""
    book, gallery = opened(notebook, shop, "dreamo.compare(done, rater='ann')")
    book.run(AFTER)
    book.restart()
    gallery.locator("td summary").first.focus()
    book.page.keyboard.press("4")
    expect(gallery.get_by_role("status")).to_contain_text("The kernel that made this gallery is gone")
    gallery.locator("td img").first.click()
    expect(gallery.get_by_role("dialog").get_by_role("status")).to_contain_text("is gone")
    book.page.keyboard.press("Escape")
    pairs = book.output(AFTER).locator(".dreamo-compare").first
    for key in ("ArrowLeft", "u"):
        pairs.focus()
        book.page.keyboard.press(key)
        expect(pairs.get_by_role("status")).to_contain_text("is gone")
    assert dreamo.ratings(shop.run_dir).empty


def test_what_another_rater_said_is_not_shown_before_one_has_spoken(shop, notebook):
    """Two people rate without seeing each other's marks; the results hold the mean."""
    book, _ = opened(notebook, shop, "dreamo.gallery(done, rater='bob')")
    dreamo.rate(shop.run_dir, [0, 1], 2, rater="ann")
    book.run(AFTER)
    other = book.output(AFTER).locator(".dreamo-gallery").first
    expect(other.locator("td img")).to_have_count(6)
    expect(other.locator(".dg-rating")).to_have_count(0)
    other.locator("td summary").nth(0).focus()
    book.page.keyboard.press("4")
    expect(other.locator(".dg-rating")).to_have_text("★ 4")
    assert sorted(dreamo.load(shop.run_dir)["rating"].dropna()) == [2.0, 3.0]
