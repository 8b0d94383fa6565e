"""The gallery in a notebook: pictures, what became of the other rows, and what a click tells."""

from __future__ import annotations

from typing import Final

from playwright.sync_api import expect

PROMPTS: Final = (
    "on a beach at sunset, the light low over the water",
    '<img src=x onerror="window.isHarmed = true"> in the snow',
)
RUN, GALLERY = 1, 2
_ALL_SHOWN: Final = "pictures => pictures.every(one => one.complete && one.naturalWidth > 0)"


def opened(notebook, shop, call, cell):
    """Open a notebook, buy six rows, and show the gallery."""
    book = notebook(shop.setup(n_rows=6, prompts=PROMPTS), call, cell)
    book.run(0, RUN, GALLERY)
    return book, book.output(GALLERY).locator(".dreamo-gallery").first


def test_gallery_shows_pictures_and_a_click_tells_how_one_was_made(shop, notebook, screen):
    """Pictures are there, a failed row says why, a click gives seed, cost and job id, and prompts do no harm."""
    shop.open_for_good()
    shop.gateway.faults.script("create", "fail_moderation")
    book, gallery = opened(notebook, shop, shop.call("run", max_in_flight=1), "dreamo.gallery(done)")
    pictures = gallery.locator("td img")
    expect(pictures).to_have_count(5)
    assert pictures.evaluate_all(_ALL_SHOWN)
    expect(gallery).to_contain_text("Risk Not Pass")
    expect(gallery).to_contain_text(PROMPTS[1])
    screen.take_all("gallery", gallery)
    pictures.nth(0).click()
    expect(gallery).to_contain_text("job_id")
    screen.take_all("gallery-clicked", gallery)
    assert book.page.evaluate("window.isHarmed") is None


def test_gallery_of_a_run_under_way_draws_what_is_not_there_yet(shop, notebook, screen):
    """Rows at the service and rows not ordered yet stand in their places."""
    _, gallery = opened(
        notebook, shop, shop.call("start", "live", max_in_flight=2), "dreamo.gallery(live.results())"
    )
    expect(gallery).to_contain_text("in progress")
    expect(gallery).to_contain_text("pending")
    screen.take_all("gallery-under-way", gallery)
