"""Blind choices by keys, in JupyterLab in Chromium."""

from __future__ import annotations

from playwright.sync_api import expect

import dreamo_batch as dreamo


def test_keys_choose_call_ties_and_undo(shop, notebook, screen):
    """Each key brings the next pair, and stands in the directory; at the end the scores are shown."""
    shop.open_for_good()
    book = notebook(
        shop.setup(n_rows=3),
        shop.call("run"),
        "seeds = dreamo.compare(done, by='seed', pairs=3, rater='ann')\nseeds",
    )
    book.run(0, 1, 2)
    shown = book.output(2).locator(".dreamo-compare").first
    expect(shown.locator(".dc-sides img")).to_have_count(2)
    expect(shown).to_contain_text("0 of 3")
    screen.take_all("compare", shown)
    shown.focus()
    for key, count in (
        ("ArrowLeft", "1 of 3"),
        ("ArrowDown", "2 of 3"),
        ("u", "1 of 3"),
        ("ArrowRight", "2 of 3"),
    ):
        book.page.keyboard.press(key)
        expect(shown).to_contain_text(count)
    shown.get_by_role("button", name="choose left").first.click()
    expect(shown).to_contain_text("3 of 3")
    expect(shown.locator("table")).to_contain_text("strength_low")
    screen.take_all("compare-scores", shown)
    scores = dreamo.compare(shop.run_dir, pairs=3, rater="ann").scores()
    assert scores["choices"].tolist() == [2, 2, 2]
    assert (scores["won"].sum(), scores["tied"].sum()) == (3, 0)
